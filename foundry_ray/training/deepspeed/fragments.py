"""What a rank holds of a sharded training: views into DeepSpeed's flat fp32 partitions, by parameter name. Nothing is gathered, nothing copied.

Decides: where each parameter's piece lies for every ZeRO stage, which rule changes it, and how written pieces reach the weights that are computed
with. Reads attributes of DeepSpeed 0.19 that have no public form: the
alternative, its own checkpoints, does not load at another world size or stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from foundry_ray.config import TrainConfig
from foundry_ray.protocols import Fragment
from foundry_ray.training.deepspeed.memory import share_partitions
from foundry_ray.training.deepspeed.optimizer import Groups
from foundry_ray.training.optimizers import elementwise_rule, update_rule
from foundry_ray.training.rules import ParamGroup, UpdateRule

_FLAT = "flat"


class Holding(Protocol):
    """This rank's share of weights and optimizer state, and the update rules over it."""

    def step(self, groups: Groups) -> None:
        """Change the weights that are held by their gradients."""

    def fragments(self) -> Sequence[Fragment]:
        """Live views; the weights' stay for good, the optimizer's until the next step."""

    def refresh(self) -> None:
        """(c) Bring the weights that are computed with in line with the fragments."""

    def load_num_steps(self, num_steps: int) -> None:
        """Go on as if so many steps had been taken."""


class Replicated:
    """ZeRO 0: each rank holds all of it, and computes with it.

    Args:
        model: Its parameters are fp32 and contiguous.
        train: The optimizer.
    """

    def __init__(self, model: nn.Module, train: TrainConfig) -> None:
        self._model = model
        self._rule = update_rule(model, train)

    def step(self, groups: Groups) -> None:
        """One step of all parameters, at one learning rate."""
        self._rule.step(groups[0]["lr"])

    def fragments(self) -> Sequence[Fragment]:
        """Whole parameters, then the state by slot."""
        weights = [_whole("weights", name, param.detach()) for name, param in self._model.named_parameters()]
        return (*weights, *(_whole(slot, name, tensor) for slot, tensors in self._rule.slots().items() for name, tensor in tensors.items()))

    def refresh(self) -> None:
        """The fragments are the weights."""

    def load_num_steps(self, num_steps: int) -> None:
        """Go on as if so many steps had been taken."""
        self._rule.load_num_steps(num_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """`length` elements of a parameter from `start` on, which lie in a flat fp32 partition from `offset` on."""

    name: str
    start: int
    total: int
    length: int
    flat: Tensor
    offset: int

    def view(self, slot: str, tensor: Tensor) -> Fragment:
        """The piece of a tensor that is laid out like the partition."""
        return Fragment(slot=slot, name=self.name, start=self.start, total=self.total, tensor=tensor.detach().narrow(0, self.offset, self.length))


class Sharded:
    """ZeRO 1 to 3: each rank holds its pieces in fp32; weights that do not train lie beside them, whole (1, 2) or in pieces (3).

    Args:
        model: As DeepSpeed left it.
        zero: DeepSpeed's ZeRO optimizer.
        groups: The groups of parameters that it was given.
        train: The optimizer, an element-wise one.
        stage: 1 to 3.
        rank: This rank's place among those that share the weights.
    """

    def __init__(self, model: nn.Module, zero: Any, groups: Sequence[ParamGroup], train: TrainConfig, *, stage: int, rank: int) -> None:
        self._zero = zero
        self._stage = stage
        self._flats = _flats(zero, stage)
        share_partitions(zero, self._flats, stage=stage)
        kinds = [groups[zero.sub_group_to_group_id[index] if stage == 3 else index] for index in range(len(self._flats))]
        self._rules = {flat: _rule(flat, kind, train) for flat, kind in zip(self._flats, kinds, strict=True)}
        pieces = tuple(_pieces_of_3(model, zero, rank) if stage == 3 else _pieces_of_1_and_2(model, self._flats))
        self._frozen, self._casts = _frozen(model, stage, rank)
        slots = self._rules[self._flats[0]].slots()
        states = [piece.view(slot, self._rules[piece.flat].slots()[slot][_FLAT]) for slot in slots for piece in pieces]
        self._fragments = (*(piece.view("weights", piece.flat) for piece in pieces), *self._frozen, *states)

    def step(self, groups: Groups) -> None:
        """One step of the partitions that DeepSpeed has laid into the groups: all of them, or one at a time."""
        for group in groups:
            for flat in group["params"]:
                self._rules[flat].step(group["lr"])

    def fragments(self) -> Sequence[Fragment]:
        """Weights that train, weights that do not, then the state by slot."""
        return self._fragments

    def load_num_steps(self, num_steps: int) -> None:
        """Go on as if so many steps had been taken."""
        for rule in self._rules.values():
            rule.load_num_steps(num_steps)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the pieces into the weights in their format; ranks gather them at once (1, 2), or when a layer asks for them (3)."""
        for live, written in self._casts:
            live.copy_(written)
        if self._stage < 3:
            self._zero.update_lp_params()
            return
        self._zero._partition_all_parameters()
        for index in range(len(self._flats)):
            self._zero._reassign_or_swap_out_partitioned_parameters(index)
        self._zero.invalidate_secondary_tensor()


def _whole(slot: str, name: str, tensor: Tensor) -> Fragment:
    return Fragment(slot=slot, name=name, start=0, total=tensor.numel(), tensor=tensor.view(-1), is_replicated=True)


def _rule(flat: Tensor, kind: ParamGroup, train: TrainConfig) -> UpdateRule:
    """The rule over one partition, with the decay and the penalties of the parameters in it."""
    return elementwise_rule((replace(kind, params={_FLAT: cast(nn.Parameter, flat)}),), train)


def _flats(zero: Any, stage: int) -> list[Tensor]:
    """The fp32 partitions of this rank: one per group of parameters (1, 2; in bf16 with fp32 gradients another class), or per sub-group (3)."""
    name = "fp32_partitioned_groups_flat" if stage == 3 else "single_partition_of_fp32_groups"
    return list(getattr(zero, name) if hasattr(zero, name) else zero.fp32_groups_flat_partition)


def _pieces_of_1_and_2(model: nn.Module, flats: Sequence[Tensor]) -> Iterator[_Piece]:
    for name, param in model.named_parameters():
        mapping = getattr(param, "_hp_mapping", None)
        if mapping is not None:
            where, within = mapping.lp_fragment_address, mapping.hp_fragment_address
            flat = flats[mapping.param_group_index]
            yield _Piece(name=name, start=where.start, total=param.numel(), length=where.numel, flat=flat, offset=within.start)


def _pieces_of_3(model: nn.Module, zero: Any, rank: int) -> Iterator[_Piece]:
    for name, param in model.named_parameters():
        if param.requires_grad:
            group, offset, size = zero.grad_position[zero.get_param_id(param)]
            total = int(param.ds_numel)  # type: ignore[attr-defined]
            length = min(size, total - rank * size)  # the last ranks' pieces are padded
            if length > 0:
                flat = zero.fp32_partitioned_groups_flat[group]
                yield _Piece(name=name, start=rank * size, total=total, length=length, flat=flat, offset=offset)


def _frozen(model: nn.Module, stage: int, rank: int) -> tuple[list[Fragment], list[tuple[Tensor, Tensor]]]:
    """Fragments of weights that do not train, and for those that were cast (live, fp32 copy of it)."""
    fragments, casts = [], []
    for name, param in model.named_parameters():
        if param.requires_grad:
            continue
        start, total, live = _lying(param, stage, rank)
        if live.numel():
            written = live.float()
            if written is not live:
                casts.append((live, written))
            fragments.append(Fragment(slot="weights", name=name, start=start, total=total, tensor=written, is_replicated=stage < 3))
    return fragments, casts


def _lying(param: nn.Parameter, stage: int, rank: int) -> tuple[int, int, Tensor]:
    """First element, elements of the whole, and the flat tensor of what this rank holds."""
    if stage < 3:
        return 0, param.numel(), param.detach().view(-1)
    piece, total = param.ds_tensor, int(param.ds_numel)  # type: ignore[attr-defined]
    start = rank * piece.numel()
    return start, total, piece.detach().narrow(0, 0, max(0, min(piece.numel(), total - start)))
