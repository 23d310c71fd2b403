"""A student becomes the published artifact that is served: trained, exported, stored as its recipe says, proven. `toolbox.compress` is for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.clock import utc
from foundry_ray.compression.apply import check_loads
from foundry_ray.compression.cost import Cost, cost
from foundry_ray.compression.export import OUTPUT_NAME, input_name, to_onnx
from foundry_ray.compression.parity import agreement_ratio, check_export, check_replay, runtime_agreement_ratio
from foundry_ray.compression.quantize import Ranges, params_of, quantized
from foundry_ray.compression.recipes import check_recipe, quantized_bits
from foundry_ray.compression.runtime import runtime_of
from foundry_ray.compression.sparsity import sparsity_notes
from foundry_ray.compression.stages import Stage
from foundry_ray.inference import runtime_meta
from foundry_ray.protocols import ArtifactStore, Clock, Given, LatencyMeter, Reporter, RuntimeChoice
from foundry_ray.registry import CARD_FILE, recipe_in_words
from foundry_ray.reporting.model_card import Made, published_card
from foundry_ray.schemas import ImageSchema, Schema, classes_only
from foundry_ray.types import FORMAT_VERSION, CompressionRecipe, DatasetRef, Json, ModelArtifact, canonical_bytes, to_json

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from foundry_ray.config import CardConfig, ExportConfig

MIN_AGREEMENT = 0.99
_PARITY_ROWS = 64
_STEPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStudent:
    """A student after its full budget.

    Attributes:
        model: The weights that are judged.
        curve: Metrics of each epoch.
        val_metrics: The last ones on val.
        stages: What it was on the way, where that was looked at.
        recipe: What it was made by, where that was settled on the way to its training; empty where it is as it was asked for.
        notes: How it was settled, as sentences.
    """

    model: nn.Module
    curve: tuple[Mapping[str, float], ...] = ()
    val_metrics: Mapping[str, float] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    recipe: CompressionRecipe | None = None
    notes: tuple[str, ...] = ()


def publish_student(
    recipe: CompressionRecipe,
    *,
    train: Callable[[], TrainedStudent],
    dataset: DatasetRef,
    calibration_NCHW: np.ndarray,
    parents: tuple[str, ...],
    store: ArtifactStore,
    clock: Clock,
    reporter: Reporter,
    export: ExportConfig | None = None,
    meter: LatencyMeter | None = None,
) -> ModelArtifact:
    """Train (by the caller's function), export, quantize where the recipe says so, prove parity, publish with a model card.

    Args:
        recipe: What the student was made by, unless the trained student says more of it.
        train: Gives the trained student; called once.
        dataset: Its schema goes into the signature, its val rows show the agreement of int8 with fp32.
        calibration_NCHW: Raw uint8 rows of the *training* split, for the int8 ranges.
        parents: Keys of the artifacts that it descends from.
        export: What is published besides the served file; nothing more where absent.
        meter: Measures the file for the card; where absent, whoever evaluates the student does.

    Raises:
        ParityFailed: A file does not answer as the model does.
        RecipeInfeasible: The recipe is wrong, there is nothing to calibrate with, or torch cannot export it as is wanted.
    """
    from foundry_ray.artifacts import manifests
    from foundry_ray.compression.fake_quant import detached
    from foundry_ray.config import ExportConfig

    export, recipe = export or ExportConfig(), check_recipe(recipe)
    student = train()
    recipe = student.recipe or recipe
    model, learnt = detached(student.model)
    reporter.progress(1, _STEPS, "trained")
    if not hasattr(model, "family"):
        reporter.warn(f"{type(model).__name__} belongs to no model family: its file can be served, but not built again in torch from the artifact.")
    onnx, proven = _shipped(model, recipe, dataset, calibration_NCHW, learnt=learnt, store=store, reporter=reporter)
    program, more = _torch_program(model, dataset, store) if export.torch_program else ({}, ())
    reporter.progress(3, _STEPS, "parity proven")
    meta, notes, counted = _meta(model, recipe, dataset, parents), (*student.notes, *proven, *more), cost(model, dataset.schema)
    files = {**_files(model, onnx, recipe, meta), **program, **_tokenizer(dataset, store), **_stages(student.stages)}
    made = _made(recipe, dataset, student, files, family=_family(model), counted=counted, meter=meter, stated=export.card)
    files[CARD_FILE] = published_card(replace(made, notes=notes)).encode()
    artifact = manifests.publish(store, kind="model", files=files, meta=meta, created_at=utc(clock.now_s()))
    reporter.progress(4, _STEPS, "published")
    return ModelArtifact(
        artifact=artifact,
        family=_family(model),
        num_params=counted.num_params,
        num_macs=counted.num_macs,
        size_bytes=len(onnx),
        recipe=recipe,
        parents=parents,
        val_metrics=student.val_metrics,
        curve=student.curve,
        notes=(*(stage.note for stage in student.stages), *notes),
    )


def _shipped(
    model: nn.Module,
    recipe: CompressionRecipe,
    dataset: DatasetRef,
    calibration_NCHW: np.ndarray,
    *,
    learnt: Ranges | None = None,
    store: ArtifactStore,
    reporter: Reporter,
) -> tuple[bytes, tuple[str, ...]]:
    """The served file, and the numbers that prove it, as sentences."""
    from foundry_ray import data

    val_NCHW = data.load_split(dataset, "val", store=store).inputs_N
    exported = to_onnx(model, dataset.schema)
    parity = check_export(model, exported, val_NCHW[:_PARITY_ROWS])
    notes = [f"fp32 ONNX differs from torch by {parity.max_abs_ratio:.1e} of the logit range ({parity.num_rows} val rows)"]
    reporter.progress(2, _STEPS, "exported")
    onnx, params = exported, params_of(recipe)
    if params is not None:
        given = _given(dataset, store) if params.needs_training_split else None
        made = quantized(exported, calibration_NCHW, params, given=given, learnt=learnt)
        onnx = made.onnx
        check_loads(onnx, recipe, what=params.label)
        notes += [_agreement(exported, onnx, val_NCHW, params.label, reporter), *made.notes]
    choice = runtime_of(recipe)
    check_replay(onnx, val_NCHW, choice)
    notes.append("logits bit-equal in a fresh process")
    if choice.name != "onnxruntime":
        notes.append(_runtime_agreement(onnx, choice, val_NCHW, reporter))
    return onnx, (*notes, *sparsity_notes(model, recipe, onnx))


def _torch_program(model: nn.Module, dataset: DatasetRef, store: ArtifactStore) -> tuple[dict[str, bytes | Path], tuple[str, ...]]:
    """The second file, and what proves it."""
    from foundry_ray import data
    from foundry_ray.compression.torch_program import FILE, check_torch_program, to_torch_program

    program = to_torch_program(model, dataset.schema)
    parity = check_torch_program(model, program, data.load_split(dataset, "val", store=store).inputs_N[:_PARITY_ROWS])
    note = f"{FILE} differs from the model by {parity.max_abs_ratio:.1e} of the logit range ({parity.num_rows} val rows); it holds fp32 and no pickle"
    return {FILE: program}, (note,)


def _made(
    recipe: CompressionRecipe,
    dataset: DatasetRef,
    student: TrainedStudent,
    files: Mapping[str, bytes | Path],
    *,
    family: str,
    counted: Cost,
    meter: LatencyMeter | None,
    stated: CardConfig,
) -> Made:
    """What the card is written of, but for what was proven. `meter` times the served file, where there is one."""
    choice, onnx = runtime_of(recipe), files["model.onnx"]
    latency = (meter.measure(onnx, batch_size=1, runtime=choice),) if meter is not None and isinstance(onnx, bytes) else ()
    return Made(
        family=family,
        num_params=counted.num_params,
        num_macs=counted.num_macs,
        dataset=dataset,
        recipe=recipe_in_words(recipe),
        steps=[stage.note for stage in student.stages],
        val_metrics=student.val_metrics,
        latency=latency,
        file_bytes={name: len(content) for name, content in files.items() if isinstance(content, bytes)},
        runtime=f"{choice.name} in {choice.precision}",
        stated=stated,
    )


def _runtime_agreement(onnx: bytes, choice: RuntimeChoice, val_N: np.ndarray, reporter: Reporter) -> str:
    ratio, label = runtime_agreement_ratio(onnx, choice, val_N), f"{choice.name} in {choice.precision}"
    if ratio < MIN_AGREEMENT:
        reporter.warn(f"{label} agrees with onnxruntime on {ratio:.1%} of val predictions, wanted {MIN_AGREEMENT:.0%}; the accuracy gate decides.")
    return f"{label} agrees with onnxruntime on {ratio:.2%} of {len(val_N)} val predictions"


def _given(dataset: DatasetRef, store: ArtifactStore) -> Given:
    """The training split."""
    from foundry_ray import data

    split = data.load_split(dataset, "train", store=store)
    return Given(schema=dataset.schema, task=dataset.task, inputs_N=split.inputs_N, labels_N=split.labels_N)


def _agreement(exported: bytes, quantized: bytes, val_N: np.ndarray, label: str, reporter: Reporter) -> str:
    ratio = agreement_ratio(exported, quantized, val_N)
    if ratio < MIN_AGREEMENT:
        reporter.warn(f"{label} agrees with fp32 on {ratio:.1%} of val predictions, wanted {MIN_AGREEMENT:.0%}; the accuracy gate decides.")
    return f"{label} agrees with fp32 on {ratio:.2%} of {len(val_N)} val predictions"


def _files(model: nn.Module, onnx: bytes, recipe: CompressionRecipe, meta: Json) -> dict[str, bytes | Path]:
    from foundry_ray import models

    architecture = {"architecture.json": canonical_bytes(models.describe(model))} if hasattr(model, "family") else {}
    return {
        "model.onnx": onnx,
        "model.safetensors": models.tensors_to_bytes(model.state_dict()),
        **architecture,
        "recipe.json": canonical_bytes(to_json(recipe)),
        "signature.json": canonical_bytes(meta),
    }


def _stages(stages: tuple[Stage, ...]) -> dict[str, bytes | Path]:
    """What each step came to."""
    return {"steps.json": canonical_bytes(to_json(stages))} if stages else {}


def _tokenizer(dataset: DatasetRef, store: ArtifactStore) -> dict[str, bytes | Path]:
    """What made ids of the texts that the model learnt from: it travels with the model, whose answers mean nothing without it."""
    from foundry_ray.artifacts import manifests
    from foundry_ray.data.tokenizer import FILE

    return {FILE: manifests.read_file(store, dataset.key, FILE)} if dataset.tokenizer else {}


def _meta(model: nn.Module, recipe: CompressionRecipe, dataset: DatasetRef, parents: tuple[str, ...]) -> Json:
    """What a caller of the served file must know, and where it came from."""
    schema = classes_only(dataset.schema, what="a served model")
    signature: dict[str, Json] = {
        "format_version": FORMAT_VERSION,
        "input": {"name": input_name(schema), "shape": ["batch", *schema.shape], **_values(schema, dataset)},
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


def _values(schema: Schema, dataset: DatasetRef) -> dict[str, Json]:
    """What the numbers of an input are."""
    if isinstance(schema, ImageSchema):
        return {"dtype": schema.dtype, "values": "raw pixels 0..255"}
    values: dict[str, Json] = {"dtype": "int64", "values": f"token ids 0..{schema.vocab_size - 1}", "padding": schema.padding}
    values["vocab_size"] = schema.vocab_size
    return {**values, "tokenizer": dataset.tokenizer} if dataset.tokenizer else values


def _family(model: nn.Module) -> str:
    return str(getattr(model, "family", type(model).__name__))
