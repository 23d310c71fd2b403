"""Training for int8: weights and activations are rounded in the forward pass as they will be in the file, gradients pass straight through.

Follows arXiv 1712.05877, section 3: weights per output channel with batch norms folded, activations per tensor, on ranges that are moving averages
of what came by. The ranges are buffers of the model, so they are saved and averaged with it, and the file takes them from there: what was trained is
what ships. Folding a batch norm multiplies each filter by one number, which a scale per channel takes up: its convolution runs with rounded filters,
and the norm still uses the statistics of the batch. While a model is simulated, its submodules are called in the order of its graph; where no graph
can be traced, each linear layer and table is simulated by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from foundry_ray.compression.export import to_onnx
from foundry_ray.compression.grids import LINEAR, Grid, pixel_grid
from foundry_ray.compression.onnx_layers import STORED_ONLY, TABLE, Layer, is_traced, layers, outputs_of
from foundry_ray.compression.quantize_params import QuantizeParams
from foundry_ray.compression.rounding import LEVELS, rounded_activation
from foundry_ray.compression.simulated_pass import GraphPass, LayerPass, graph_of
from foundry_ray.compression.static_int8 import stored_tensors
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.types import Schema

_NAME = "fake_quant"
_MOMENTUM = 0.05
"""Share of a batch in a range: 1712.05877 asks for averages over hundreds of steps or more where ranges move fast, trials have fewer steps."""


class ActivationRanges(nn.Module):
    """The ranges of some activations, learnt as they go by: a part of the model for as long as it is simulated.

    Attributes:
        names: Of the tensors in the graph.
        is_on: Whether anything is rounded yet.
        low, high: Averages of the batches' extremes, shape (names,).
        begun: 1 where an activation was seen, 0 before. An average of all three over the steps divides by this to forget the time before.
    """

    low: Tensor
    high: Tensor
    begun: Tensor

    def __init__(self, names: tuple[str, ...], fixed: Mapping[str, Grid]) -> None:
        super().__init__()
        self.names = names
        self.is_on = False
        self._fixed = dict(fixed)
        self._places = {name: place for place, name in enumerate(names)}
        for buffer in ("low", "high", "begun"):
            self.register_buffer(buffer, torch.zeros(len(names)))

    def rounded(self, name: str, values: Tensor) -> Tensor:
        """The activation as it would be stored; in training it moves the range first. One whose range nobody has seen stays as it is."""
        grid = self._fixed.get(name)
        if grid is not None:
            return torch.fake_quantize_per_tensor_affine(values.float(), grid.scale, grid.zero_point, 0, LEVELS)
        place = self._places[name]
        if self.training:
            self._move(place, values.detach())
        begun = self.begun[place]
        share = torch.where(begun > 0, begun, 1.0)
        rounded = rounded_activation(values.float(), self.low[place] / share, self.high[place] / share)
        return rounded if self.training else torch.where(begun > 0, rounded, values)

    def learnt(self) -> Mapping[str, tuple[float, float]]:
        """The range of each tensor that was seen."""
        found = zip(self.names, self.low.tolist(), self.high.tolist(), self.begun.tolist(), strict=True)
        return {name: (low / begun, high / begun) for name, low, high, begun in found if begun > 0}

    @torch.no_grad()
    def _move(self, place: int, values: Tensor) -> None:
        share = torch.where(self.begun[place] > 0, _MOMENTUM, 1.0)
        for mine, seen in zip((self.low, self.high), values.float().aminmax(), strict=True):
            mine[place] += share * (seen - mine[place])
        self.begun[place] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated of a model.

    Attributes:
        names: Activations that are stored, by their names in the graph.
        fixed: The grids of those that are known beforehand.
        modules: Layers with int8 weights, by the names of their modules: what each reads, where it is simulated by itself.
        is_traced: Whether the whole graph is simulated.
    """

    names: tuple[str, ...]
    fixed: Mapping[str, Grid] = field(default_factory=dict)
    modules: Mapping[str, str]
    is_traced: bool


class FakeQuant:
    """A `TrainingAid`: see the module's docstring."""

    def __init__(self, schema: Schema, params: QuantizeParams) -> None:
        self._schema = schema
        self._kept = params.kept_names
        self._from = params.qat_from
        self._ranges: ActivationRanges | None = None

    @property
    def settled_at(self) -> float:
        """See `TrainingAid`."""
        return self._from

    def attach(self, model: nn.Module) -> None:
        """See `TrainingAid.attach`."""
        self._ranges = attach(model, plan(model, self._schema, self._kept))

    def before_step(self, progress: float) -> None:
        """Simulate from that share of the training on."""
        assert self._ranges is not None, "attached before the first step"
        self._ranges.is_on = progress >= self._from

    def after_step(self, progress: float) -> None:
        """The next forward pass rounds the new weights."""


def plan(model: nn.Module, schema: Schema, kept: tuple[str, ...]) -> Plan:
    """What can be simulated of a model. Raises RecipeInfeasible where the file would round something that training does not."""
    import onnx

    graph = onnx.load_model_from_string(to_onnx(model, schema)).graph
    found = layers(graph)
    kept_outputs = outputs_of(found, kept)
    stored = stored_tensors(graph, kept_outputs)
    if not stored:
        raise RecipeInfeasible("quantize: no operator of this model has an int8 form.", hint="set `qat: false`.", reason="nothing to train")
    left = [layer for layer in found if layer.output not in kept_outputs]
    if is_traced(graph):
        pixels = pixel_grid(graph)
        fixed = {pixels[0]: pixels[1]} if pixels is not None and pixels[0] in stored else {}
        rounded = {layer.name: layer.source for layer in left if layer.source in stored or layer.op_type in STORED_ONLY}
        return Plan(names=tuple(stored), fixed=fixed, modules=rounded, is_traced=True)
    _check_alone(model, left, stored)
    return Plan(names=tuple(stored), modules={layer.name: layer.source for layer in left}, is_traced=False)


def attach(model: nn.Module, planned: Plan) -> ActivationRanges:
    """Let a model round what is planned, from `is_on` on; returns its ranges, which are a part of it from now on."""
    ranges = ActivationRanges(planned.names, planned.fixed).to(next(model.parameters()).device)
    setattr(model, _NAME, ranges)
    if planned.is_traced:
        traced = graph_of(model, planned.names)
        model.__dict__["forward"] = GraphPass(model, traced, ranges, frozenset(planned.modules))
        return ranges
    for name, source in planned.modules.items():
        module = model.get_submodule(name)
        module.__dict__["forward"] = LayerPass(module, ranges, source)
    return ranges


def detached(model: nn.Module) -> tuple[nn.Module, Mapping[str, tuple[float, float]]]:
    """The model without what simulates it, and the ranges that were learnt; the same model and none where nothing does. It is left unchanged."""
    ranges = getattr(model, _NAME, None)
    if not isinstance(ranges, ActivationRanges):
        return model, {}
    plain = copy.deepcopy(model)
    delattr(plain, _NAME)
    for module in plain.modules():
        if isinstance(module.__dict__.get("forward"), (GraphPass, LayerPass)):
            del module.__dict__["forward"]
    return plain, ranges.learnt()


def _check_alone(model: nn.Module, left: list[Layer], stored: list[str]) -> None:
    """Raises RecipeInfeasible unless every layer is a module of its own that can be simulated alone, and nothing else is stored."""
    modules = dict(model.named_modules())
    for layer in left:
        is_again = sum(other.name == layer.name for other in left) > 1
        kind = nn.Embedding if layer.op_type == TABLE else nn.Linear
        if type(modules.get(layer.name)) is not kind or is_again or layer.op_type not in (TABLE, *LINEAR):
            message = f"quantize: the {layer.op_type} of {layer.name} cannot be simulated in training where the model's graph cannot be traced."
            raise RecipeInfeasible(message, hint=f"set `qat: false`, or keep it in fp32: `keep: {layer.name}`.", reason="no simulation")
    others = set(stored) - {layer.source for layer in left}
    if others:
        message = f"quantize: {', '.join(sorted(others))} would be stored in int8 and cannot be simulated where the model's graph cannot be traced."
        raise RecipeInfeasible(message, hint="set `qat: false`.", reason="no simulation")
