"""The step `quantize`: how the numbers of the served file are stored, and in what they are multiplied.

static: int8 weights and activations, ranges from training rows (arXiv 1712.05877, 2004.09602). dynamic: int8 linear layers, ranges as they come.
weight_only: int8 or int4 weights. float: fp16 or bf16 weights. Static weights are signed and symmetric, activations unsigned with a zero point: the
pair for which CPUs have dot-product instructions (measured with VNNI: up to three times faster than signed activations). The runtime's own tool is
not used, because it goes through temporary files, leaves the pixels in fp32 and keeps activations between pairs that no kernel needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.compression import steps
from foundry_ray.compression.quantize_params import QuantizeParams, checked_params
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given, TrainingAid
from foundry_ray.types import CompressionRecipe, Scalar

if TYPE_CHECKING:
    import numpy as np
    import onnx as onnx_types
    from torch import nn

    from foundry_ray.compression.grids import Grid
    from foundry_ray.compression.onnx_layers import Layer

INT8 = QuantizeParams(bits=8)
Ranges = Mapping[str, tuple[float, float]]
"""(low, high) of activations by tensor name."""


@steps.register("quantize")
class Quantize:
    """Acts when the model is exported, before that in `simulate`, and in training where it is trained for int8."""

    kind = "quantize"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`; what is not asked for is left out, so that equal steps hash equal."""
        return checked_params(params)

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """The model as it is. Raises RecipeInfeasible where int8 cannot be simulated in its training."""
        wanted = QuantizeParams.model_validate(params)
        if wanted.qat:
            from foundry_ray.compression.fake_quant import plan

            plan(model, given.schema, wanted.kept_names)
        return model

    def aid(self, params: Mapping[str, Scalar], *, given: Given) -> TrainingAid | None:
        """Simulated int8, where the student is to be trained for it."""
        wanted = QuantizeParams.model_validate(params)
        if not wanted.qat:
            return None
        from foundry_ray.compression.fake_quant import FakeQuant

        return FakeQuant(given.schema, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A quantized file.

    Attributes:
        layers: Names of all layers.
        kept: Of those that stay in fp32.
        grids: Of stored activations.
        is_traced: See `onnx_layers.is_traced`.
        notes: How it came to be, as sentences.
    """

    onnx: bytes
    layers: tuple[str, ...]
    kept: tuple[str, ...]
    grids: Mapping[str, Grid]
    is_traced: bool
    notes: tuple[str, ...]


def params_of(recipe: CompressionRecipe) -> QuantizeParams | None:
    """What a recipe says of storage; None where it says nothing, which is fp32."""
    step = recipe.step("quantize")
    params = QuantizeParams.model_validate(step.params) if step else None
    return params if params is not None and params.bits != 32 else None


def quantize_onnx(onnx: bytes, calibration_N: np.ndarray, params: QuantizeParams = INT8) -> bytes:
    """Quantize an exported fp32 file; about 0.05 s for a student, 0.2 s for a teacher of 0.7 M parameters.

    Args:
        onnx: What `to_onnx` gave.
        calibration_N: Raw rows of the training split; they set the ranges of static int8.
        params: Of the step.

    Raises:
        RecipeInfeasible: There are no calibration rows, or the graph has nothing to quantize.
    """
    return quantized(onnx, calibration_N, params).onnx


def quantized(
    onnx: bytes, calibration_N: np.ndarray, params: QuantizeParams, *, given: Given | None = None, learnt: Ranges | None = None
) -> Quantized:
    """As `quantize_onnx`, with what a full recipe may ask for.

    Args:
        onnx: As there.
        calibration_N: As there.
        params: As there.
        given: The whole training split, for rows that are drawn or held back.
        learnt: Ranges that the student was trained with.

    Raises:
        RecipeInfeasible: As there; or rows are wanted that nobody gives, a layer is kept that is not there, or no choice of layers is good enough.
    """
    import onnx as onnx_library

    from foundry_ray.compression.onnx_layers import is_traced, layers, outputs_of

    model = onnx_library.load_model_from_string(onnx)
    found = layers(model.graph)
    kept = params.kept_names
    _refuse_nothing(params, found, outputs_of(found, kept))
    form = _form(model, calibration_N, params, given, learnt)
    notes = form.notes
    if params.accuracy_budget is not None:
        kept, told = kept_within(onnx, calibration_N, params, given)
        notes += (told,)
    outputs = outputs_of(found, kept)
    return Quantized(
        onnx=form.write(outputs),
        layers=tuple(layer.name for layer in found),
        kept=kept,
        grids=form.grids(outputs),
        is_traced=is_traced(model.graph),
        notes=(*notes, *((f"kept in fp32: {', '.join(kept)}",) if kept else ())),
    )


def kept_within(onnx: bytes, calibration_N: np.ndarray, params: QuantizeParams, given: Given | None) -> tuple[tuple[str, ...], str]:
    """The layers that an `accuracy_budget` keeps in fp32, and what was found, as a sentence. See `mixed`. Raises RecipeInfeasible."""
    import onnx as onnx_library

    from foundry_ray.compression.mixed import held_back, keep_within
    from foundry_ray.compression.onnx_layers import layers, outputs_of

    assert params.accuracy_budget is not None, "asked of a budget alone"
    model = onnx_library.load_model_from_string(onnx)
    found, always = layers(model.graph), params.kept_names
    _refuse_nothing(params, found, outputs_of(found, always))
    form = _form(model, calibration_N, params, given, None)
    rows = held_back(given, len(calibration_N), params.calibration_seed)
    names = [layer.name for layer in found]
    return keep_within(params.accuracy_budget, onnx, lambda some: form.write(outputs_of(found, some)), names, always=always, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """One way to store a model: functions of the outputs of the layers that stay in fp32."""

    write: Callable[[frozenset[str]], bytes]
    grids: Callable[[frozenset[str]], Mapping[str, Grid]]
    notes: tuple[str, ...] = ()


def _form(model: onnx_types.ModelProto, calibration_N: np.ndarray, params: QuantizeParams, given: Given | None, learnt: Ranges | None) -> _Form:
    from foundry_ray.compression.dynamic import write_dynamic
    from foundry_ray.compression.half import write_half
    from foundry_ray.compression.weight_storage import store_int4, store_int8, write_layers

    if params.scheme == "static":
        return _static(model, calibration_N, params, given, learnt)
    writers: Mapping[str, Callable[[frozenset[str]], bytes]] = {
        "dynamic": lambda kept: write_dynamic(model, kept),
        "float": lambda kept: write_half(model, params.number, kept),
        "weight_only": lambda kept: write_layers(model, kept, store_int8 if params.bits == 8 else store_int4(params.group)),
    }
    return _Form(write=writers[params.scheme], grids=lambda _: {})


def _static(model: onnx_types.ModelProto, calibration_N: np.ndarray, params: QuantizeParams, given: Given | None, learnt: Ranges | None) -> _Form:
    from foundry_ray.compression.calibration import calibration_rows
    from foundry_ray.compression.quantized_graph import write
    from foundry_ray.compression.static_int8 import calibrated, stored_tensors

    rows_N = calibration_rows(calibration_N, params.calibration_seed, given)
    all_grids = calibrated(model, rows_N, method=params.calibration, percentile=params.percentile, learnt=learnt)

    def grids(kept: frozenset[str]) -> Mapping[str, Grid]:
        return {name: all_grids[name] for name in stored_tensors(model.graph, kept)}

    digest = hashlib.sha256(rows_N.tobytes()).hexdigest()[:16]
    drawn = "" if params.calibration_seed is None else f", drawn with seed {params.calibration_seed}"
    how = "" if params.calibration == "minmax" else f", by {params.calibration}"
    note = f"int8 ranges from {len(rows_N)} training rows, sha256 {digest}{drawn}{how}"
    if learnt:
        note = f"int8 ranges of {len(learnt)} tensors learnt in training"
    return _Form(write=lambda kept: write(model, grids(kept), kept), grids=grids, notes=(note,))


def _refuse_nothing(params: QuantizeParams, found: list[Layer], kept: frozenset[str]) -> None:
    """Raises RecipeInfeasible where no layer is left that the scheme acts on."""
    acts_on = {"static": ("Conv", "Gemm", "MatMul"), "dynamic": ("Gemm", "MatMul")}.get(params.scheme)
    if params.scheme == "float" or any(layer.output not in kept and (acts_on is None or layer.op_type in acts_on) for layer in found):
        return
    why = {"static": "no operator of this model has an int8 form", "dynamic": "dynamic int8 multiplies in linear layers, and this model has none"}
    what = f"{why.get(params.scheme, 'this model has no layer with weights')}{' but those that are kept' if kept else ''}"
    raise RecipeInfeasible(f"quantize: {what}.", hint="use `bits: 32` for it, or another `scheme`.", reason="nothing to quantize")
