"""Which layers of a student and of its teacher are compared, and what comes out of them while a forward pass runs.

Decides: which outputs belong together, by their form alone, so that it holds for any two models and after pruning. Images: the last output of
each resolution that both have. Sequences and vectors: the repeated blocks, by their relative depth. Shapes: B batch, C channels, H height, W width,
T places, D features; outputs are (B, C, H, W), (B, T, D) or (B, D).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from foundry_ray.errors import RecipeInfeasible

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

MOST_PAIRS = 3


class Tap(NamedTuple):
    """An output: the module's name, and at which of its calls in one forward pass it comes."""

    module: str
    call: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """An output as it went by; `width` is C or D, `grid` is (H, W), (T,) or ()."""

    tap: Tap
    width: int
    grid: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An output of the student and the one of the teacher that it is compared with; the widths are C or D of both."""

    student: Tap
    teacher: Tap
    student_width: int
    teacher_width: int
    grid: tuple[int, ...]


@contextmanager
def recording(model: nn.Module, taps: Sequence[Tap]) -> Iterator[dict[Tap, Tensor]]:
    """What comes out of these places while this lasts, by tap. Hooks are there only as long."""
    wanted, found, calls = set(taps), dict[Tap, Tensor](), dict[str, int]()

    def keep(name: str, output: Tensor) -> None:
        tap = Tap(name, calls.get(name, 0))
        calls[name] = tap.call + 1
        if tap in wanted:
            found[tap] = output

    names = {tap.module for tap in taps}
    handles = _watch({name: module for name, module in model.named_modules() if name in names}, keep)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def matched(student: nn.Module, teacher: nn.Module, *, run: Callable[[nn.Module], object]) -> tuple[Pair, ...]:
    """The outputs that are compared, at most three pairs.

    Args:
        student: As it trains.
        teacher: As it answers.
        run: Carries out a forward pass of a few rows, the same for both.

    Raises:
        RecipeInfeasible: Nothing of the one has a counterpart in the other.
    """
    mine, other = _outputs(student, run), _outputs(teacher, run)
    pairs = _by_resolution(mine, other) or _by_depth(mine, other, ndim=1) or _by_depth(mine, other, ndim=0)
    if not pairs:
        names = f"the student ({type(student).__name__}) and the teacher ({type(teacher).__name__})"
        message = f"recipe step distil: {names} have no layers that can be compared: no equal resolution, and no repeated blocks."
        raise RecipeInfeasible(message, hint="set `distil.kind: logits`, which compares answers alone.", recipe="distil", reason="no matching layers")
    return _spread(pairs, MOST_PAIRS)


def _outputs(model: nn.Module, run: Callable[[nn.Module], object]) -> list[_Seen]:
    """All outputs behind the first layer that mixes its inputs and before the answer, in the order in which they are made."""
    seen: list[_Seen] = []
    mixing = {name for name, module in model.named_modules() if any(param.ndim > 1 for param in module.parameters(recurse=False))}
    calls: dict[str, int] = {}
    started: list[str] = []
    tensors: list[Tensor] = []

    def keep(name: str, output: Tensor) -> None:
        tap = Tap(name, calls.get(name, 0))
        calls[name] = tap.call + 1
        started.extend([name] if name in mixing else [])
        tensors.append(output)
        form = _form(output)
        if name and started and form is not None:
            seen.append(_Seen(tap, *form))

    handles = _watch(dict(model.named_modules()), keep)
    try:
        with torch.no_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    answer = _form(tensors[-1]) if tensors else None
    while seen and answer is not None and (seen[-1].width, seen[-1].grid) == answer:
        seen.pop()
    return seen


def _form(output: Tensor) -> tuple[int, tuple[int, ...]] | None:
    """Width and grid; None for what has neither."""
    if output.ndim == 4:
        return int(output.shape[1]), tuple(output.shape[2:])
    if output.ndim in (2, 3):
        return int(output.shape[-1]), tuple(output.shape[1:-1])
    return None


def _watch(modules: Mapping[str, nn.Module], keep: Callable[[str, Tensor], None]) -> list[RemovableHandle]:
    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def see(_module: nn.Module, _inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor) and first.is_floating_point():
                keep(name, first)

        return see

    return [module.register_forward_hook(hook(name)) for name, module in modules.items()]


def _by_resolution(mine: Sequence[_Seen], other: Sequence[_Seen]) -> list[Pair]:
    ours, theirs = ({one.grid: one for one in seen if len(one.grid) == 2 and one.grid != (1, 1)} for seen in (mine, other))
    return [_pair(ours[grid], theirs[grid]) for grid in ours if grid in theirs]


def _by_depth(mine: Sequence[_Seen], other: Sequence[_Seen], *, ndim: int) -> list[Pair]:
    """Block i of n with block round((i + 1) m / n) - 1 of m, where both see as many places."""
    ours, theirs = (_blocks(seen, ndim) for seen in (mine, other))
    found = [(one, theirs[round((index + 1) * len(theirs) / len(ours)) - 1]) for index, one in enumerate(ours)] if theirs else []
    return [_pair(one, it) for one, it in found if one.grid == it.grid]


def _blocks(seen: Sequence[_Seen], ndim: int) -> list[_Seen]:
    """The outputs of the outermost row of numbered modules (`layers.0`, `layers.1`, ...), the longest of them; else the last output."""
    fitting = [one for one in seen if len(one.grid) == ndim]
    rows: dict[str, list[_Seen]] = {}
    for one in fitting:
        place, _, last = one.tap.module.rpartition(".")
        if last.isdigit():
            rows.setdefault(place, []).append(one)
    return rows[min(rows, key=lambda place: (place.count(".") + bool(place), -len(rows[place])))] if rows else fitting[-1:]


def _pair(mine: _Seen, other: _Seen) -> Pair:
    return Pair(student=mine.tap, teacher=other.tap, student_width=mine.width, teacher_width=other.width, grid=mine.grid)


def _spread(pairs: Sequence[Pair], most: int) -> tuple[Pair, ...]:
    """At most so many, evenly over the depth, the last among them."""
    if len(pairs) <= most:
        return tuple(pairs)
    return tuple(pairs[round((index + 1) * len(pairs) / most) - 1] for index in range(most))
