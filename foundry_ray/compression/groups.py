"""Which channels of a model can only be cut together, and the cut itself, by DepGraph (arXiv 2301.12900, the package torch-pruning).

A coupling is a set of layers that make, pass on or read the same channels: a residual stream, a convolution and its readers, the heads of an
attention. The units of a coupling are what is kept or taken out as one: a channel; a channel of each block where channels come in blocks
(grouped convolutions, group norms, the two directions of a recurrent layer); a whole head, where attention splits them. A coupling that
cannot be cut says why. Legend: C channels, U units, M channels of a unit.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from foundry_ray.compression.dependencies import Dependencies
from foundry_ray.compression.recurrent_cuts import RECURRENT, customized, opaque_recurrence
from foundry_ray.compression.tracing import blank
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.types import Schema

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MAKERS = (*_CONVS, nn.Linear, nn.Embedding, *RECURRENT)
_MIXES_POSITIONS = ("scaleddotproduct", "softmax", "bmm")

Role = Literal["makes", "passes", "reads"]


class Member(NamedTuple):
    """One layer of a coupling: the channels at `positions` of it hang on the coupling's channels `roots`, one for one."""

    name: str
    layer: Any
    role: Role
    positions: Sequence[int]
    roots: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupling:
    """Channels that can only be cut together.

    Attributes:
        name: Of the layer that makes them; where they are heads, of the one that reads them and `:heads`. No other coupling of a model has it.
        members: The layers with parameters that lose something with each channel, the root first.
        units_UM: The channels of each unit.
        is_heads: A unit is a head of an attention.
        kept_because: Why nothing of it can be cut; empty where it can.
        root: How torch-pruning names it: a layer, and how that is cut.
    """

    name: str
    members: tuple[Member, ...]
    units_UM: Tensor
    is_heads: bool
    kept_because: str
    root: tuple[Any, Any]

    @property
    def width(self) -> int:
        """Channels."""
        return self.units_UM.numel()

    @property
    def num_units(self) -> int:
        return len(self.units_UM)

    def multiple(self, round_to: int) -> int:
        """How many units make a number of channels that `round_to` divides; heads are not rounded."""
        size = self.units_UM.shape[1]
        return 1 if self.is_heads else math.lcm(round_to, size) // size


class Couplings:
    """The couplings of a model, and the cut of one of them. One object is good for one cut of each coupling.

    Args:
        model: In evaluation mode from here on, else left as it is.
        schema: What one input looks like.
        kept: Why couplings of these names are left whole.

    Raises:
        RecipeInfeasible: The model's graph cannot be followed.
    """

    def __init__(self, model: nn.Module, schema: Schema, *, kept: Mapping[str, str] | None = None) -> None:
        self._model = model.eval()
        self._kept = dict(kept or {})
        self._names = {module: name for name, module in model.named_modules()}
        self._owners = _owners(model)
        self._splits = _Splits()
        self._graph = self._traced(blank(model, schema))
        self.found = tuple(self._coupling(group) for group in self._graph.get_all_groups(root_module_types=_MAKERS))

    def _traced(self, example: Tensor) -> Any:
        graph = Dependencies()
        try:
            with torch.enable_grad(), requiring_grad(self._model), opaque_recurrence(self._model), self._splits:
                graph.build_dependency(self._model, (example,), customized_pruners=customized(self._model), verbose=False)
        except Exception as error:  # the model's own code runs in there, and may raise anything
            told = " ".join(str(error).split()) or type(error).__name__
            reason = f"the graph of {type(self._model).__name__} cannot be followed: {told}"
            raise _infeasible(reason, "leave `prune` out; `shrink` and `quantize` need no such graph.") from error
        return graph

    def cut(self, coupling: Coupling, units: Sequence[int]) -> None:
        """Take units out of all layers of a coupling; weights that were shared stay shared."""
        positions = coupling.units_UM[list(units)].flatten().tolist()
        flags = {name: parameter.requires_grad for name, parameter in self._model.named_parameters(remove_duplicate=False)}
        self._graph.get_pruning_group(*coupling.root, idxs=positions).prune()
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(flags[name])
        for first, *others in self._owners:
            for module, name in others:
                setattr(module, name, getattr(*first))

    def _coupling(self, group: Any) -> Coupling:
        splits = {split for item in group for split in self._splits.of(item.dep.target.grad_fn, len(item.idxs))}
        is_attention = bool(splits) and any(_mixes_positions(item.dep.target.grad_fn) for item in group)
        if is_attention:
            group = self._from_reader(group)
        members = tuple(self._members(group))
        width, blocks = len(group[0].idxs), self._blocks(group)
        num_heads = max(splits, default=0) if is_attention else 0
        reason = self._reason(group, members, splits=splits, is_attention=is_attention, blocks=blocks)
        if num_heads:
            units_UM = torch.arange(width).reshape(num_heads if width % num_heads == 0 else 1, -1)
        else:
            units_UM = torch.arange(width).reshape(blocks if width % blocks == 0 else 1, -1).T
        root = group[0].dep.target.module
        makers = [member.name for member in members if member.role == "makes"]
        reader = self._names.get(root, type(root).__name__)
        name = f"{reader}:heads" if num_heads else makers[0] if makers else reader
        return Coupling(
            name=name,
            members=members,
            units_UM=units_UM,
            is_heads=bool(num_heads),
            kept_because=reason or self._kept.get(name, ""),
            root=(root, group[0].dep.handler),
        )

    def _from_reader(self, group: Any) -> Any:
        """The same group seen from the layer that reads the heads' outputs: queries, keys and values may be one layer that is wider."""
        readers = [item for item in group if self._role(item.dep) == "reads"]
        if not readers:
            return group
        reader = min(readers, key=lambda item: len(item.idxs))
        return self._graph.get_pruning_group(reader.dep.target.module, reader.dep.handler, sorted(reader.idxs))

    def _members(self, group: Any) -> Iterator[Member]:
        for item in group:
            layer = item.dep.target.module
            role = self._role(item.dep)
            if role is not None and layer in self._names:
                yield Member(self._names[layer], layer, role, item.idxs, item.root_idxs)

    def _role(self, dep: Any) -> Role | None:
        layer = dep.target.module
        if not isinstance(layer, nn.Module) or next(layer.parameters(), None) is None:
            return None
        if not isinstance(layer, _MAKERS) or (isinstance(layer, _CONVS) and _is_depthwise(layer)):
            return "passes"
        return "makes" if self._graph.is_out_channel_pruning_fn(dep.handler) else "reads"

    def _width(self, dep: Any) -> int:
        """Channels of a layer at the end where it is cut; 0 for operations, which have none of their own."""
        wide = self._graph.get_out_channels if self._graph.is_out_channel_pruning_fn(dep.handler) else self._graph.get_in_channels
        return int(wide(dep.target) or 0)

    def _blocks(self, group: Any) -> int:
        return math.lcm(*(self._blocks_of(item.dep) for item in group))

    def _blocks_of(self, dep: Any) -> int:
        layer = dep.target.module
        if not isinstance(layer, nn.Module) or (isinstance(layer, _CONVS) and _is_depthwise(layer)):
            return 1
        cutter = self._graph.get_pruner_of_module(layer)
        is_out = self._graph.is_out_channel_pruning_fn(dep.handler)
        return int(cutter.get_out_channel_groups(layer) if is_out else cutter.get_in_channel_groups(layer))

    def _reason(self, group: Any, members: Sequence[Member], *, splits: set[int], is_attention: bool, blocks: int) -> str:
        """Why a group cannot be cut; empty where it can."""
        width = len(group[0].idxs)
        if any(not item.dep.target.outputs and self._graph.is_out_channel_pruning_fn(item.dep.handler) for item in group):
            return "they are the model's outputs"
        if any(item.idxs and max(item.idxs) >= self._width(item.dep) > 0 for item in group):
            return "a layer that reads them is narrower than they are"
        if splits and (not is_attention or len(splits) > 1 or 0 in splits or width % max(splits)):
            return "they are reshaped in a way that mixes them"
        if is_attention and blocks > 1:
            return "heads of an attention are grouped once more"
        if blocks > 1 and (width % blocks or any(self._blocks_of(item.dep) > 1 and self._width(item.dep) != width for item in group)):
            return "a layer reads them in groups, among others"
        if not group.is_followed or any(len(set(Counter(member.roots).values())) > 1 for member in members):
            return "which of them a layer reads cannot be followed"
        computed = next((member.name for member in members if is_parametrized(member.layer)), "")
        if computed:
            return f"a tensor of {computed} is computed from others (torch.nn.utils.parametrize)"
        if any(isinstance(member.layer, nn.MultiheadAttention) for member in members):
            return "they pass an attention whose heads have to share their width"
        return self._unlike_shared(members)

    def _unlike_shared(self, members: Sequence[Member]) -> str:
        """A weight under several names can only be cut where all its owners are cut alike."""
        cuts: dict[tuple[nn.Module, str], tuple[int, frozenset[int]]] = {}
        for member in members:
            for name, dim in _cut_dims(member):
                cuts[member.layer, name] = (dim, frozenset(member.positions))
        for owners in self._owners:
            if len({cuts.get(owner) for owner in owners}) > 1:
                first, second = (f"{self._names[module]}.{name}" for module, name in owners[:2])
                return f"{first} and {second} are one weight, which would not be cut alike"
        return ""


class _Splits(TorchFunctionMode):
    """Sees how tensors are reshaped while a model runs."""

    def __init__(self) -> None:
        super().__init__()
        self._shapes: dict[Any, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("view", "reshape", "unflatten") and isinstance(result, Tensor) and result.grad_fn is not None:
            self._shapes[result.grad_fn] = (tuple(args[0].shape), tuple(result.shape))
        return result

    def of(self, grad_fn: Any, width: int) -> Iterator[int]:
        """Into how many parts this operation splits a dimension of `width`; nothing where it splits none, 0 where it does so twice."""
        before, after = self._shapes.get(grad_fn, ((), ()))
        for dim in range(1, len(before)):
            if before[dim] != width or after[:dim] != before[:dim]:
                continue
            products = list(itertools.accumulate(after[dim:], operator.mul))
            if width in products:
                parts = [size for size in after[dim : dim + products.index(width) + 1] if size > 1]
                if len(parts) > 1:
                    yield parts[0] if len(parts) == 2 else 0


def _mixes_positions(grad_fn: Any) -> bool:
    name = grad_fn.name().lower() if hasattr(grad_fn, "name") else ""
    return any(part in name for part in _MIXES_POSITIONS)


def _is_depthwise(conv: nn.modules.conv._ConvNd) -> bool:
    """As torch-pruning has it, which cuts such a layer's inputs and outputs as one."""
    return conv.groups == conv.out_channels > 1


def _cut_dims(member: Member) -> Iterator[tuple[str, int]]:
    """Which dimension of which parameter loses channels."""
    layer, makes = member.layer, member.role == "makes"
    if isinstance(layer, nn.Embedding):
        yield "weight", 1
    elif isinstance(layer, (nn.Linear, *_CONVS)) and member.role != "passes":
        yield "weight", int(makes == bool(getattr(layer, "transposed", False)))
    elif member.role == "passes":
        yield "weight", 0
    if makes or member.role == "passes":
        yield "bias", 0


def _owners(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Parameters that stand in several places, by their places."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(parameter), []).append((module, name))
    return [owners for owners in places.values() if len(owners) > 1]


@contextlib.contextmanager
def requiring_grad(model: nn.Module) -> Iterator[None]:
    """The graph is read off autograd, also that of frozen weights."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad and parameter.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _infeasible(reason: str, hint: str) -> RecipeInfeasible:
    return RecipeInfeasible(f"prune: {reason}.", hint=hint, reason=reason)
