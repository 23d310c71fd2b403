"""The seam between a study and whoever decides which trial goes on: facts in, one decision out.

A scheduler is a fold over facts. It is told each fact once, in the order of the journal, when a study is replayed and when it runs alike,
and its answer is a function of what it was told. It touches no store, no clock and no random state but hash(seed, trial, rung).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from foundry_ray.types import Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A new trial was begun, in `bracket`, and runs to `rung`."""

    number: int
    rung: int
    bracket: int = 0
    params: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A trial has a result at `rung`. One that was told before takes the place of what it said (its latency was measured anew).

    Attributes:
        losses: Its objectives there as losses, smaller is better, the most important first; not finite where one is missing.
        curve: (epoch, loss of the first objective) after each epoch so far.
    """

    number: int
    rung: int
    losses: tuple[float, ...]
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A waiting trial was sent on, or a postponed one is begun. It runs to `rung`.

    Attributes:
        params: Where it took over another one's weights: its parameters now.
    """

    number: int
    rung: int
    params: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A trial will report nothing any more, and cannot be sent on; if it is postponed, not before it is started."""

    number: int
    reason: Literal["failed", "infeasible", "duplicate", "dominated", "postponed"]


Fact = Asked | Reached | Started | Left


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOn:
    """Trial `number` goes on to `rung`."""

    number: int
    rung: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """A new trial is wanted, in `bracket`, to run to `rung` first."""

    rung: int = 0
    bracket: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploit:
    """Trial `number` takes over the weights that `donor` had at `from_rung`, and goes on to `rung` with these parameters."""

    number: int
    donor: int
    from_rung: int
    rung: int
    params: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing can start before a running trial reports; `why` is said to the user."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Nothing is left to start, whatever running trials report: only `can_ask` could change that."""


Decision = GoOn | Begin | Exploit | Wait | Done


class Scheduler(Protocol):
    """Which trial goes on, and when a new one begins."""

    @property
    def levels(self) -> tuple[int, ...]:
        """Epochs at the end of each rung, rising; the last one completes a trial."""

    def saw(self, fact: Fact) -> None:
        """Take note of a fact."""

    def next(self, *, can_ask: bool) -> Decision:
        """What to start now, if a worker is free. Changes nothing: asked twice without a fact between, it answers the same.

        Args:
            can_ask: The budget leaves room for a new trial. Without it, no `Begin` is answered.
        """

    def waiting(self) -> Sequence[tuple[int, int]]:
        """(number, rung) of the trials that were not sent on from the rung that they reached, and could be; the highest rung first.

        Those that lack a loss are not among them. Whoever sends one on regardless of `next`, as at the end of a study, tells it as `Started`.
        """
