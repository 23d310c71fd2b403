"""Whether a cut took out what it should have: a model without some channels has to answer as the whole one does when nothing reads them.

That is so wherever channels are read by layers alone. It is not where a norm over channels stands between, so couplings with one are not compared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foundry_ray.compression.groups import Coupling, Member
from foundry_ray.compression.recurrent_cuts import RECURRENT
from foundry_ray.compression.rows import batches, drawn
from foundry_ray.models.modes import evaluating
from foundry_ray.protocols import Given
from foundry_ray.types import ImageSchema

_ROWS = 4
_TOLERANCE_RATIO = 1e-3


def is_comparable(coupling: Coupling) -> bool:
    """Whether channels that nobody reads change nothing."""
    return not any(member.role == "passes" and isinstance(member.layer, (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)) for member in coupling.members)


def answer(model: nn.Module, given: Given) -> Tensor:
    """What the model gives in evaluation mode for a few training rows, or random ones where there are none."""
    with torch.no_grad(), evaluating(model):
        found: Tensor = model(_inputs(model, given))
    return found


def answer_unread(model: nn.Module, cuts: Sequence[tuple[Coupling, Sequence[int]]], given: Given) -> Tensor:
    """What a model gives where nothing reads these units of its couplings; the model is left as it is."""
    deaf = copy.deepcopy(model)
    with ExitStack() as stack:
        for coupling, units in cuts:
            gone = set(coupling.units_UM[list(units)].flatten().tolist())
            for member in coupling.members:
                positions = [position for position, root in zip(member.positions, member.roots, strict=True) if root in gone]
                stack.enter_context(_unread(deaf.get_submodule(member.name), member, positions))
        return answer(deaf, given)


def is_equal(found: Tensor, expected: Tensor) -> bool:
    """But for rounding, relative to the range of what is expected."""
    scale = float((expected.max() - expected.min()).abs()) or 1.0
    return bool(found.shape == expected.shape and ((found - expected).abs() <= _TOLERANCE_RATIO * scale).all())


@contextmanager
def _unread(layer: nn.Module, member: Member, positions: list[int]) -> Iterator[None]:
    """Within, a layer that reads the channels gets zeros; one that makes them and reads them in its next step forgets them."""
    if member.role == "makes" and isinstance(layer, RECURRENT):
        _forget(layer, positions)
    if member.role != "reads":
        yield
        return
    dim = -1 if isinstance(layer, (nn.Linear, *RECURRENT)) else 1

    def _zeroed(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        index = torch.tensor(positions, device=inputs[0].device)
        return (inputs[0].index_fill(dim, index, 0.0), *inputs[1:])

    handle = layer.register_forward_pre_hook(_zeroed)
    try:
        yield
    finally:
        handle.remove()


def _forget(layer: nn.RNNBase, positions: list[int]) -> None:
    units = sorted({position % layer.hidden_size for position in positions})
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh"):
                weight[:, units] = 0.0
            elif name.startswith("weight_ih") and not name.startswith("weight_ih_l0"):
                weight[:, positions] = 0.0


def _inputs(model: nn.Module, given: Given) -> Tensor:
    rows_N = drawn(given, num_rows=_ROWS)
    if len(rows_N):
        return next(iter(batches(model, given, rows_N, batch_size=_ROWS)))[0]
    parameter, generator = next(model.parameters()), torch.Generator().manual_seed(given.seed)
    is_image = isinstance(given.schema, ImageSchema)
    high = 256 if isinstance(given.schema, ImageSchema) else given.schema.vocab_size
    drawn_rows = torch.randint(0, high, (_ROWS, *given.schema.shape), generator=generator)
    return drawn_rows.to(device=parameter.device, dtype=parameter.dtype if is_image else torch.int64)
