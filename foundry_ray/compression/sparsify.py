"""The step `sparsify`: single weights become zero and stay so, those of the smallest magnitude in each layer.

By default the first and the last layer are left whole (which hold few weights, and feel it most); biases, norms and embeddings always are. Zeros make
neither the file smaller nor the runtime faster: no runtime here skips them, only a GPU's sparse kernels do, and those want two zeros in each four
weights along the input dimension (`2:4`, arXiv 2104.08378). `sparsity.notes` says so of each student.

A gradual schedule (Zhu and Gupta, arXiv 1710.01878) adds the smallest of the others to those that are zero. As many as the schedule has then are the
mask, the smallest first, so nothing is remembered besides the weights, a resumed training gives the same bits, and a layer that begins with zeros all
the same learns. The averaged weights have the same zeros. Shapes: O outputs, I inputs of a layer, K the rest of its kernel, G groups of four inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from foundry_ray.compression import steps
from foundry_ray.config import Section
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given, TrainingAid
from foundry_ray.types import Scalar

if TYPE_CHECKING:
    from torch import Tensor, nn

_GROUP = 4
_ZEROS_OF_GROUP = 2
_UPDATES = 100
"""How often a gradual schedule adds zeros: the paper's pruning steps, spread over the share of the training that it takes."""


class SparsifyParams(Section):
    """How many weights become zero, which, and when."""

    ratio: float = Field(0.5, ge=0, lt=1, description="Share of the weights of each layer that become zero; 0.5 for 2:4.")
    pattern: Literal["unstructured", "2:4"] = Field("unstructured", description="Any weights, or two in each four along the input dimension.")
    schedule: Literal["one_shot", "gradual"] = Field("gradual", description="All before the first step, or more and more while the student trains.")
    begin: float = Field(0.0, ge=0, lt=1, description="Share of the training after which a gradual schedule begins.")
    end: float = Field(0.7, gt=0, le=1, description="Share of the training after which all zeros are there.")
    criterion: Literal["magnitude"] = Field("magnitude", description="What makes a weight matter.")
    whole_ends: bool = Field(True, description="The first and the last layer have no zeros.")


@steps.register("sparsify")
class Sparsify:
    """See the module's docstring."""

    kind = "sparsify"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`."""
        checked = steps.checked(SparsifyParams, params, kind=self.kind)
        wanted = SparsifyParams.model_validate(checked)
        if wanted.pattern == "2:4" and wanted.ratio != _ZEROS_OF_GROUP / _GROUP:
            raise _refused(f"ratio is {wanted.ratio:g} and pattern is 2:4, wanted 0.5: two of four", "leave `sparsify.ratio` out.")
        if wanted.schedule == "gradual" and wanted.begin >= wanted.end:
            raise _refused(f"begin is {wanted.begin:g} and end is {wanted.end:g}, wanted an end after the beginning", "set `sparsify.end` above it.")
        if wanted.schedule == "one_shot" and (wanted.begin, wanted.end) != (SparsifyParams().begin, SparsifyParams().end):
            raise _refused("begin or end is set and schedule is one_shot, which has neither", "set `sparsify.schedule: gradual`.")
        return checked

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """See `Compressor.apply`. Raises RecipeInfeasible where no layer can have zeros."""
        wanted = SparsifyParams.model_validate(params)
        weights = sparse_weights(model, wanted)
        if not weights:
            kernels = "no layer between the first and the last" if wanted.whole_ends else "no layer"
            inputs = " whose inputs are a multiple of 4" if wanted.pattern == "2:4" else ""
            raise _refused(f"{type(model).__name__} has {kernels}{inputs}", "set `sparsify.whole_ends: false`, or leave the step out.")
        if wanted.schedule == "one_shot":
            _zero(weights, _masks(weights, wanted, wanted.ratio))
        return model

    def aid(self, params: Mapping[str, Scalar], *, given: Given) -> TrainingAid | None:
        """Who keeps the zeros."""
        return Masks(SparsifyParams.model_validate(params))


class Masks:
    """Keeps weights at zero, and adds to them as the schedule says."""

    def __init__(self, params: SparsifyParams) -> None:
        self._params = params
        self._weights: dict[str, Tensor] = {}
        self._zeros: dict[str, Tensor] = {}
        self._updates: int | None = None  # that were carried out; None in a process that has taken no step

    @property
    def settled_at(self) -> float:
        """See `TrainingAid`."""
        return self._params.end if self._params.schedule == "gradual" else 0.0

    def attach(self, model: nn.Module) -> None:
        """See `TrainingAid`."""
        self._weights = sparse_weights(model, self._params)

    def before_step(self, progress: float) -> None:
        """See `TrainingAid`. After a resume the zeros are there already: they are the smallest."""
        if self._updates is None:
            self._bring_to(progress)

    def after_step(self, progress: float) -> None:
        """See `TrainingAid`."""
        _zero(self._weights, self._zeros)
        if _updates_at(progress, self._params) != self._updates:
            self._bring_to(progress)

    def after_average(self, average: Mapping[str, Tensor]) -> None:
        """See `ActsOnAverage`."""
        for name, zeros in self._zeros.items():
            average[name].masked_fill_(zeros, 0.0)

    def _bring_to(self, progress: float) -> None:
        self._updates = _updates_at(progress, self._params)
        self._zeros = _masks(self._weights, self._params, target(progress, self._params))
        _zero(self._weights, self._zeros)


def target(progress: float, params: SparsifyParams) -> float:
    """Share of zeros after this much of the training: s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 with s_i = 0 (arXiv 1710.01878, eq. 1)."""
    passed = _updates_at(progress, params) / _UPDATES
    return params.ratio * (1 - (1 - passed) ** 3)


def sparse_weights(model: nn.Module, params: SparsifyParams) -> dict[str, Tensor]:
    """The weights that may become zero, by name and live: matrices and kernels of layers that multiply, in the order of the model's modules.

    What layers share is one weight, under its first name; what a table or a layer that is left whole has too is left whole.
    """
    from torch import nn

    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.MultiheadAttention)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds) and not _is_inside_attention(model, name)}
    names = list(layers)[1:-1] if params.whole_ends else list(layers)
    able = {id(param) for name in names for param in layers[name].parameters(recurse=isinstance(layers[name], nn.MultiheadAttention))}
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    whole = {id(param) for module in (*tables, *(layers[name] for name in layers if name not in names)) for param in module.parameters()}
    found = {}
    for name, param in model.named_parameters():
        fits = params.pattern == "unstructured" or (param.ndim > 1 and param.shape[1] % _GROUP == 0)
        if param.ndim > 1 and fits and id(param) in able - whole:
            found[name] = param.detach()
    return found


def _is_inside_attention(model: nn.Module, name: str) -> bool:
    """The output projection of nn.MultiheadAttention is found with the rest of it."""
    from torch import nn

    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)


def _updates_at(progress: float, params: SparsifyParams) -> int:
    """How many times zeros were added until then, of 100."""
    if params.schedule == "one_shot":
        return _UPDATES
    passed = (progress - params.begin) / (params.end - params.begin)
    return min(_UPDATES, max(0, math.floor(passed * _UPDATES + 1e-9)))  # what rounds to a whole number of updates is one


def _masks(weights: Mapping[str, Tensor], params: SparsifyParams, ratio: float) -> dict[str, Tensor]:
    """Where this share of each weight has to be zero."""
    choose = _in_groups if params.pattern == "2:4" else _smallest
    return {name: choose(weight, ratio) for name, weight in weights.items()}


def _zero(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.masked_fill_(masks[name], 0.0)


def _smallest(weight: Tensor, ratio: float) -> Tensor:
    """Where the smallest weights are, in the shape of the weight; among equals the first."""
    import torch

    order = weight.abs().flatten().argsort(stable=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[order[: round(ratio * weight.numel())]] = True
    return mask.view(weight.shape)


def _in_groups(weight_OIK: Tensor, ratio: float) -> Tensor:
    """The two smallest of each four inputs, in the groups where they are smallest together; in all groups at a ratio of 0.5."""
    import torch

    rows = weight_OIK.abs().movedim(1, -1)
    groups_G4 = rows.reshape(-1, _GROUP)
    values, places = groups_G4.sort(dim=1, stable=True)
    lost = values[:, :_ZEROS_OF_GROUP].square().sum(1)
    chosen = lost.argsort(stable=True)[: round(ratio * _GROUP / _ZEROS_OF_GROUP * len(groups_G4))]
    mask_G4 = torch.zeros_like(groups_G4, dtype=torch.bool)
    mask_G4[chosen] = mask_G4[chosen].scatter(1, places[chosen, :_ZEROS_OF_GROUP], True)
    return mask_G4.view(rows.shape).movedim(-1, 1)


def _refused(reason: str, hint: str) -> RecipeInfeasible:
    return RecipeInfeasible(f"recipe step sparsify: {reason}.", hint=hint, recipe="sparsify", reason=reason)
