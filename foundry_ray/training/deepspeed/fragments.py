"""What a rank holds of a sharded training: views into DeepSpeed's flat fp32 partitions, by parameter name. Nothing is gathered, nothing copied.

Decides: where each parameter's piece lies for every ZeRO stage, that the optimizer's state is there before the first step (zeros, as it would
begin), and how written pieces reach the weights that are computed with. Reads attributes of DeepSpeed 0.19 that have no public form: the
alternative, its own checkpoints, does not load at another world size or stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from foundry_ray.protocols import Fragment
from foundry_ray.training.optimizers import TORCH_SLOTS
from foundry_ray.training.wrapped import OptimizerState

_STATE = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",), "lion": ("momentum_buffer",)}
_STEP = "step"


class Holding(Protocol):
    """This rank's share of weights and optimizer state."""

    def fragments(self) -> Sequence[Fragment]:
        """Live views; the weights' stay for good, the optimizer's until the next step."""

    def refresh(self) -> None:
        """(c) Bring the weights that are computed with in line with the fragments."""

    def load_num_steps(self, num_steps: int) -> None:
        """Let the optimizer count on from so many steps."""


class Replicated:
    """ZeRO 0: each rank holds all of it, and computes with it.

    Args:
        model: Its parameters are fp32 and contiguous.
        optimizer: Over those of them that train.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model = model
        self._state = OptimizerState(optimizer, {name: param for name, param in model.named_parameters() if param.requires_grad})

    def fragments(self) -> Sequence[Fragment]:
        """Whole parameters, then the state by slot."""
        weights = [_whole("weights", name, param.detach()) for name, param in self._model.named_parameters()]
        return (*weights, *(_whole(slot, name, tensor) for slot, tensors in self._state.slots().items() for name, tensor in tensors.items()))

    def refresh(self) -> None:
        """The fragments are the weights."""

    def load_num_steps(self, num_steps: int) -> None:
        """Let the optimizer count on from so many steps."""
        self._state.load_num_steps(num_steps)


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
        optimizer: The torch optimizer inside, over the flat partitions by now.
        name: Its name in `train.optimizer`.
        stage: 1 to 3.
        rank: This rank's place among those that share the weights.
    """

    def __init__(self, model: nn.Module, zero: Any, optimizer: torch.optim.Optimizer, *, name: str, stage: int, rank: int) -> None:
        self._zero = zero
        self._optimizer = optimizer
        self._stage = stage
        self._flats = _flats(zero, stage)
        pieces = tuple(_pieces_of_3(model, zero, rank) if stage == 3 else _pieces_of_1_and_2(model, self._flats))
        slots = self._make_state(_STATE[name])
        self._frozen, self._casts = _frozen(model, stage, rank)
        weights = [piece.view("weights", piece.flat) for piece in pieces]
        states = [piece.view(slot, by_flat[piece.flat]) for slot, by_flat in slots.items() for piece in pieces]
        self._fragments = (*weights, *self._frozen, *states)

    def _make_state(self, keys: Sequence[str]) -> Mapping[str, Mapping[Tensor, Tensor]]:
        """Make what the optimizer's first step would make. Returns slot -> flat partition -> state."""
        group = self._optimizer.param_groups[0]
        if group.get("momentum") == 0:
            return {}
        for flat in self._flats:
            state = self._optimizer.state[flat]
            state.update({key: torch.zeros_like(flat, requires_grad=False) for key in keys})
            if "betas" in group and "exp_avg" in keys:
                state[_STEP] = torch.zeros((), dtype=torch.float32, device=flat.device if group["fused"] else "cpu")
        return {TORCH_SLOTS[key]: {flat: self._optimizer.state[flat][key] for flat in self._flats} for key in keys}

    def fragments(self) -> Sequence[Fragment]:
        """Weights that train, weights that do not, then the state by slot."""
        return self._fragments

    def load_num_steps(self, num_steps: int) -> None:
        """Let the optimizer count on from so many steps."""
        for flat in self._flats:
            if _STEP in self._optimizer.state[flat]:
                self._optimizer.state[flat][_STEP].fill_(num_steps)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the pieces into the weights in their format, and gather what each rank computes with."""
        for live, written in self._casts:
            live.copy_(written)
        if self._stage < 3:
            self._zero.update_lp_params()
            return
        self._zero._partition_all_parameters()
        for index in range(len(self._flats)):
            self._zero._reassign_or_swap_out_partitioned_parameters(index)
        if self._zero.persistent_parameters:
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)
        self._zero.invalidate_secondary_tensor()


def _whole(slot: str, name: str, tensor: Tensor) -> Fragment:
    return Fragment(slot=slot, name=name, start=0, total=tensor.numel(), tensor=tensor.view(-1), is_replicated=True)


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
