"""The student stage's last part: a trained student becomes the published artifact that is served."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.compression.cost import cost
from foundry_ray.compression.export import INPUT_NAME, OUTPUT_NAME, to_onnx
from foundry_ray.compression.parity import agreement_ratio, check_export, check_replay, runtime_agreement_ratio
from foundry_ray.compression.quantize import quantize_onnx
from foundry_ray.compression.recipes import check_recipe, quantized_bits
from foundry_ray.compression.runtime import runtime_of
from foundry_ray.inference import runtime_meta
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.schemas import images_only
from foundry_ray.types import FORMAT_VERSION, CompressionRecipe, DatasetRef, Json, ModelArtifact, canonical_bytes, to_json

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

MIN_AGREEMENT = 0.99
_PARITY_ROWS = 64
_STEPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStudent:
    """A student after its full budget: the weights that are judged, its learning curve, and its last metrics on val."""

    model: nn.Module
    curve: tuple[Mapping[str, float], ...] = ()
    val_metrics: Mapping[str, float] = field(default_factory=dict)


def compress(
    recipe: CompressionRecipe,
    *,
    train: Callable[[], TrainedStudent],
    dataset: DatasetRef,
    calibration_NCHW: np.ndarray,
    parents: tuple[str, ...],
    store: ArtifactStore,
    clock: Clock,
    reporter: Reporter,
) -> ModelArtifact:
    """Train (by the caller's function), export, quantize where the recipe says so, prove parity, publish.

    Args:
        recipe: What the student was made by.
        train: Gives the trained student; called once.
        dataset: Its schema goes into the signature, its val rows show the agreement of int8 with fp32.
        calibration_NCHW: Raw uint8 rows of the *training* split, for the int8 ranges.
        parents: Keys of the artifacts that it descends from.

    Raises:
        ParityFailed: The file does not answer as the model does.
        RecipeInfeasible: The recipe is wrong, or there is nothing to calibrate with.
    """
    from foundry_ray.artifacts import manifests

    recipe = check_recipe(recipe)
    student = train()
    reporter.progress(1, _STEPS, "trained")
    onnx, notes = _shipped(student.model, recipe, dataset, calibration_NCHW, store=store, reporter=reporter)
    reporter.progress(3, _STEPS, "parity proven")
    created_at = datetime.fromtimestamp(clock.now_s(), UTC).isoformat(timespec="seconds")
    meta = _meta(student.model, recipe, dataset, parents)
    artifact = manifests.publish(store, kind="model", files=_files(student.model, onnx, recipe, meta), meta=meta, created_at=created_at)
    reporter.progress(4, _STEPS, "published")
    num_params, num_macs = cost(student.model, dataset.schema)
    return ModelArtifact(
        artifact=artifact,
        family=_family(student.model),
        num_params=num_params,
        num_macs=num_macs,
        size_bytes=len(onnx),
        recipe=recipe,
        parents=parents,
        val_metrics=student.val_metrics,
        curve=student.curve,
        notes=notes,
    )


def _shipped(
    model: nn.Module, recipe: CompressionRecipe, dataset: DatasetRef, calibration_NCHW: np.ndarray, *, store: ArtifactStore, reporter: Reporter
) -> tuple[bytes, tuple[str, ...]]:
    """The served file, and the numbers that prove it, as sentences."""
    from foundry_ray import data

    val_NCHW = data.load_split(dataset, "val", store=store).images_NCHW
    exported = to_onnx(model, dataset.schema)
    parity = check_export(model, exported, val_NCHW[:_PARITY_ROWS])
    notes = [f"fp32 ONNX differs from torch by {parity.max_abs_ratio:.1e} of the logit range ({parity.num_rows} val rows)"]
    reporter.progress(2, _STEPS, "exported")
    onnx = exported
    if quantized_bits(recipe) == 8:
        onnx = quantize_onnx(exported, calibration_NCHW)
        notes += _agreement(exported, onnx, val_NCHW, calibration_NCHW, reporter)
    choice = runtime_of(recipe)
    check_replay(onnx, val_NCHW, choice)
    notes.append("logits bit-equal in a fresh process")
    if choice.name != "onnxruntime":
        ratio = runtime_agreement_ratio(onnx, choice, val_NCHW)
        notes.append(f"{choice.name} in {choice.precision} agrees with onnxruntime on {ratio:.2%} of {len(val_NCHW)} val predictions")
    return onnx, tuple(notes)


def _agreement(exported: bytes, quantized: bytes, val_NCHW: np.ndarray, calibration_NCHW: np.ndarray, reporter: Reporter) -> list[str]:
    ratio = agreement_ratio(exported, quantized, val_NCHW)
    if ratio < MIN_AGREEMENT:
        reporter.warn(f"int8 agrees with fp32 on {ratio:.1%} of val predictions, wanted {MIN_AGREEMENT:.0%}; the accuracy gate decides.")
    digest = hashlib.sha256(calibration_NCHW.tobytes()).hexdigest()[:16]
    return [
        f"int8 agrees with fp32 on {ratio:.2%} of {len(val_NCHW)} val predictions",
        f"int8 ranges from {len(calibration_NCHW)} training rows, sha256 {digest}",
    ]


def _files(model: nn.Module, onnx: bytes, recipe: CompressionRecipe, meta: Json) -> dict[str, bytes | Path]:
    from foundry_ray import models

    return {
        "model.onnx": onnx,
        "model.safetensors": models.tensors_to_bytes(model.state_dict()),
        "architecture.json": canonical_bytes(models.describe(model)),
        "recipe.json": canonical_bytes(to_json(recipe)),
        "signature.json": canonical_bytes(meta),
    }


def _meta(model: nn.Module, recipe: CompressionRecipe, dataset: DatasetRef, parents: tuple[str, ...]) -> Json:
    """What a caller of the served file must know, and where it came from."""
    schema = images_only(dataset.schema, what="a served model")
    signature: dict[str, Json] = {
        "format_version": FORMAT_VERSION,
        "input": {"name": INPUT_NAME, "dtype": schema.dtype, "shape": ["batch", *schema.shape], "values": "raw pixels 0..255"},
        "output": {"name": OUTPUT_NAME, "dtype": "float32", "shape": ["batch", len(schema.classes)]},
        "classes": list(schema.classes),
        "task": dataset.task,
        "family": _family(model),
        "bits": quantized_bits(recipe),
        **runtime_meta(runtime_of(recipe)),
        "dataset": dataset.fingerprint,
        "parents": list(parents),
    }
    return signature


def _family(model: nn.Module) -> str:
    return str(getattr(model, "family", type(model).__name__))
