"""The quantized model as a torch module: the real file on a CPU, and the same arithmetic imitated in fp32 on a GPU.

On a CPU nothing is imitated, because exporting, quantizing and running the file takes a quarter of the time (0.1-0.2 s for 500 rows of a
small student) and cannot differ from what is shipped; it runs in the runtime that the recipe names. On a GPU a trial would wait for the CPU, so
what is stored is rounded to its grid. That is done for models whose graph can be traced and runtimes that compute in fp32; the others are judged
by the real file there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from foundry_ray.compression import integers
from foundry_ray.compression.export import INPUT_NAME, OUTPUT_NAME, to_onnx
from foundry_ray.compression.fake_quant import detached
from foundry_ray.compression.grids import Grid
from foundry_ray.compression.half import MIN_ELEMENTS, rounded_half
from foundry_ray.compression.quantize import Quantized, params_of, quantized
from foundry_ray.compression.quantize_params import QuantizeParams
from foundry_ray.compression.quantized_graph import quantize_weight
from foundry_ray.compression.rounding import LEVELS, rounded_activation
from foundry_ray.compression.runtime import is_changed, runtime_of
from foundry_ray.compression.static_int8 import node_of
from foundry_ray.compression.tracing import folded
from foundry_ray.inference import Runtime, open_choice, run_batched
from foundry_ray.models.modes import evaluating
from foundry_ray.protocols import Given
from foundry_ray.types import CompressionRecipe, ImageSchema, Schema

if TYPE_CHECKING:
    import numpy as np


_IMITATED = (nn.Conv2d, nn.Linear, nn.Embedding)


def shipped_module(model: nn.Module, calibration_N: np.ndarray, recipe: CompressionRecipe, given: Given | None) -> nn.Module:
    """See `simulate.simulate`."""
    params, choice = params_of(recipe), runtime_of(recipe)
    plain, learnt = detached(model)
    if not is_changed(recipe):
        return model
    schema = _schema_of(plain, calibration_N, given)
    exported = to_onnx(plain, schema)
    if params is None:
        return _Served(open_choice(exported, choice))
    made = quantized(exported, calibration_N, params, given=given, learnt=learnt)
    is_here = next(model.parameters()).device.type == "cpu"
    standing = None if is_here or choice.precision != "fp32" else imitated(plain, params, made, schema)
    return _Served(open_choice(made.onnx, choice)) if standing is None else standing


class _Served(nn.Module):
    """Runs the served file, on the CPU."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._runtime = runtime

    @torch.inference_mode()
    def forward(self, inputs: Tensor) -> Tensor:
        if self._runtime.input_dtype == "uint8":
            inputs = inputs.round().clamp(0, 255)
        rows_N = inputs.cpu().numpy().astype(self._runtime.input_dtype, order="C")
        return torch.from_numpy(run_batched(self._runtime, rows_N)).to(inputs.device)


def imitated(model: nn.Module, params: QuantizeParams, made: Quantized, schema: Schema) -> nn.Module | None:
    """The quantized model in fp32 arithmetic, where no runtime is as fast: it differs from the file by rounding only.

    Args:
        model: In eval mode, as it was exported.
        params: How its numbers are stored.
        made: The file that is served of it.
        schema: What it takes.

    Returns:
        A module that takes what `model` takes; None where its graph cannot be traced, or holds what is not imitated.
    """
    traced = folded(model) if made.is_traced else None
    if traced is None:
        return None
    modules = {name: traced.get_submodule(name) for name in made.layers if _has(traced, name)}
    if set(modules) != set(made.layers) or not all(isinstance(module, _IMITATED) for module in modules.values()):
        return None
    grids = {node_of(name): grid for name, grid in made.grids.items()}
    if not set(grids) <= {*(node.name for node in traced.graph.nodes), OUTPUT_NAME, INPUT_NAME}:
        return None
    if params.scheme == "float":
        _round_half(traced, params, {f"{name}.weight" for name in made.kept})
    for node in traced.graph.nodes:
        if params.scheme != "float" and node.op == "call_module" and node.target in modules and node.target not in made.kept:
            _round_weight(modules[node.target], node, params, grids)
    is_dynamic = params.scheme == "dynamic"
    measured = {name for name, module in modules.items() if is_dynamic and isinstance(module, nn.Linear) and name not in made.kept}
    return _Imitation(traced, grids, measured, has_pixels=schema.kind == "images")


def _has(traced: fx.GraphModule, name: str) -> bool:
    return any(name == other for other, _ in traced.named_modules())


def _round_half(traced: fx.GraphModule, params: QuantizeParams, kept: set[str]) -> None:
    with torch.no_grad():
        for name, tensor in (*traced.named_parameters(), *traced.named_buffers()):
            if tensor.numel() >= MIN_ELEMENTS and name not in kept:
                tensor.copy_(torch.from_numpy(rounded_half(tensor.numpy(), params.number)))


def _round_weight(module: nn.Module, node: fx.Node, params: QuantizeParams, grids: Mapping[str, Grid]) -> None:
    assert isinstance(module, _IMITATED), "no other layer is imitated"
    if isinstance(module, nn.Embedding):
        _round_table(module, params)
        return
    source = node.args[0]
    grid = grids.get(source.name) if isinstance(source, fx.Node) else None
    if params.scheme == "static" and grid is None:
        return
    weight = module.weight.detach().numpy()
    if grid is not None:
        values, scale = quantize_weight(weight, None if module.bias is None else module.bias.detach().numpy(), grid.scale)
        scale = scale.reshape((-1, *[1] * (weight.ndim - 1)))
    elif params.bits == 8:
        values, scale = integers.per_channel(weight, 0)
    else:
        values, scale = integers.in_groups(weight.reshape(len(weight), -1), params.group)
    numbers = (values * scale).reshape(len(weight), -1)[:, : weight[0].size]
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(numbers.reshape(weight.shape)))


def _round_table(table: nn.Embedding, params: QuantizeParams) -> None:
    """Rows as `weight_storage` stores them."""
    weight = table.weight.detach().numpy()
    size = weight.shape[1]
    values, scale = integers.per_row(weight) if params.bits == 8 else integers.in_groups(weight, min(params.group, size + size % 2))
    with torch.no_grad():
        table.weight.copy_(torch.from_numpy((values * scale).reshape(len(weight), -1)[:, :size]))


class _Imitation(nn.Module):
    """Interprets a folded graph and rounds each stored tensor to its grid; goes to where its inputs are. Pixels become floats, token ids stay ids."""

    def __init__(self, traced: fx.GraphModule, grids: Mapping[str, Grid], measured: set[str], *, has_pixels: bool) -> None:
        super().__init__()
        self._has_pixels = has_pixels
        self.traced = traced
        self._grids = grids
        self._measured = measured

    @torch.inference_mode()
    def forward(self, inputs: Tensor) -> Tensor:
        device = inputs.device
        with torch.autocast(device.type, enabled=False):
            logits: Tensor = _Rounding(self.traced.to(device), self._grids, self._measured).run(inputs.float() if self._has_pixels else inputs)
        return logits


class _Rounding(fx.Interpreter):
    """`measured`: linear layers whose input has the grid of its own extremes."""

    def __init__(self, traced: fx.GraphModule, grids: Mapping[str, Grid], measured: set[str]) -> None:
        super().__init__(traced)
        self._grids = grids
        self._measured = measured

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in self._measured:
            args = (rounded_activation(args[0], *args[0].aminmax()), *args[1:])
        return super().call_module(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        grid = self._grids.get(n.name)
        if grid is None or not isinstance(value, Tensor):
            return value
        return torch.fake_quantize_per_tensor_affine(value, grid.scale, grid.zero_point, 0, LEVELS)


def _schema_of(model: nn.Module, rows_N: np.ndarray, given: Given | None) -> Schema:
    """What the model takes and gives; where nobody says, found by asking it about one blank image."""
    if given is not None:
        return given.schema
    _, channels, height, width = rows_N.shape
    parameter = next(model.parameters())
    with torch.inference_mode(), evaluating(model):
        num_classes = model(torch.zeros((1, channels, height, width), device=parameter.device)).shape[1]
    return ImageSchema(channels=channels, height=height, width=width, dtype="uint8", classes=tuple(str(label) for label in range(num_classes)))
