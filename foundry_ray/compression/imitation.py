"""The int8 model as a torch module: the real file on a CPU, and the same arithmetic imitated in fp32 on a GPU.

On a CPU nothing is imitated, because exporting, quantizing and running the file takes a quarter of the time (0.1-0.2 s for 500 rows of a
small student) and cannot differ from what is shipped. On a GPU a trial would wait for the CPU, so each stored tensor is rounded to its grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from foundry_ray.compression.export import INPUT_NAME, OUTPUT_NAME, to_onnx
from foundry_ray.compression.grids import Grid
from foundry_ray.compression.quantize import calibrated
from foundry_ray.compression.quantized_graph import quantize_weight, write
from foundry_ray.compression.tracing import folded
from foundry_ray.inference import Runtime, open_runtime, run_batched
from foundry_ray.types import ImageSchema

if TYPE_CHECKING:
    import numpy as np


def int8_module(model: nn.Module, calibration_NCHW: np.ndarray) -> nn.Module:
    """See `simulate.simulate`."""
    onnx = to_onnx(model, _schema_of(model, calibration_NCHW))
    proto, grids = calibrated(onnx, calibration_NCHW)
    is_here = next(model.parameters()).device.type == "cpu"
    imitation = None if is_here else _imitation(model, grids)
    return _Served(open_runtime(write(proto, grids))) if imitation is None else imitation


class _Served(nn.Module):
    """Runs the served file, on the CPU."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._runtime = runtime

    @torch.inference_mode()
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        images = pixels_BCHW.round().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()
        return torch.from_numpy(run_batched(self._runtime, images)).to(pixels_BCHW.device)


def imitate(model: nn.Module, calibration_NCHW: np.ndarray) -> nn.Module | None:
    """The int8 model in fp32 arithmetic, differing from the file by rounding only; None where the model cannot be traced."""
    proto = to_onnx(model, _schema_of(model, calibration_NCHW))
    return _imitation(model, calibrated(proto, calibration_NCHW)[1])


def _imitation(model: nn.Module, grids: Mapping[str, Grid]) -> nn.Module | None:
    traced = folded(model)
    if traced is None:
        return None
    names = {node.name for node in traced.graph.nodes}
    if not set(grids) <= {*names, OUTPUT_NAME, INPUT_NAME}:
        return None
    for node in traced.graph.nodes:
        _round_weights(traced, node, grids)
    return _Imitation(traced, grids)


def _round_weights(traced: fx.GraphModule, node: fx.Node, grids: Mapping[str, Grid]) -> None:
    source = node.args[0] if node.args else None
    if node.op != "call_module" or not isinstance(source, fx.Node) or source.name not in grids:
        return
    module = traced.get_submodule(str(node.target))
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        weight = module.weight.detach().numpy()
        bias = None if module.bias is None else module.bias.detach().numpy()
        integers_O, scale_O = quantize_weight(weight, bias, grids[source.name].scale)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(integers_O * scale_O.reshape((-1, *[1] * (weight.ndim - 1)))))


class _Imitation(nn.Module):
    """Interprets a folded graph and rounds each stored tensor to its grid; goes to where its inputs are."""

    def __init__(self, traced: fx.GraphModule, grids: Mapping[str, Grid]) -> None:
        super().__init__()
        self.traced = traced
        self._grids = grids

    @torch.inference_mode()
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        device = pixels_BCHW.device
        with torch.autocast(device.type, enabled=False):
            logits: Tensor = _Rounding(self.traced.to(device), self._grids).run(pixels_BCHW.float())
        return logits


class _Rounding(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule, grids: Mapping[str, Grid]) -> None:
        super().__init__(traced)
        self._grids = grids

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        grid = self._grids.get(n.name)
        if grid is None or not isinstance(value, Tensor):
            return value
        return torch.fake_quantize_per_tensor_affine(value, grid.scale, grid.zero_point, 0, 255)


def _schema_of(model: nn.Module, images_NCHW: np.ndarray) -> ImageSchema:
    """What the model takes and gives, found by asking it about one blank image."""
    _, channels, height, width = images_NCHW.shape
    parameter = next(model.parameters())
    was_training = model.training
    with torch.inference_mode():
        num_classes = model.eval()(torch.zeros((1, channels, height, width), device=parameter.device)).shape[1]
    model.train(was_training)
    return ImageSchema(channels=channels, height=height, width=width, dtype="uint8", classes=tuple(str(label) for label in range(num_classes)))
