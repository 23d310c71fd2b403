"""From times of single forward passes to a median, a p95 and an honest interval. Pure, except for `sample`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foundry_ray.protocols import Clock

_Z = 1.96
_BLOCK = 25
_MIN_RUNS = 100
# Below this width an interval is as narrow as it needs to be; timers and caches move a median by as much.
_NARROW_RATIO = 0.01
_WIDE_RATIO = 0.10
_WARM_UP_RUNS = 20
_WARM_UP_RATIO = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Summary of `n` runs in ms; `ci_ms` is the 95 % interval of the median."""

    p50_ms: float
    p95_ms: float
    ci_ms: tuple[float, float]
    n: int

    @property
    def is_wide(self) -> bool:
        """Whether the interval spans more than a tenth of the median."""
        return self.ci_ms[1] - self.ci_ms[0] > _WIDE_RATIO * self.p50_ms


def summarize(times_s: Sequence[float]) -> Timing:
    """Median and p95, with the distribution-free interval of the median: the order statistics n/2 +- 1.96 sqrt(n)/2.

    Raises:
        ValueError: There are no times.
    """
    if not times_s:
        raise ValueError("summarize got 0 times, wanted at least 1")
    ordered = sorted(1e3 * time_s for time_s in times_s)
    n = len(ordered)
    half = _Z * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Timing(p50_ms=middle, p95_ms=ordered[min(n - 1, math.ceil(0.95 * n) - 1)], ci_ms=(ordered[low], ordered[high]), n=n)


def sample(runs: Sequence[Callable[[], object]], *, budget_s: float, clock: Clock) -> list[list[float]]:
    """Times in seconds of each of `runs`, taken in alternating blocks so that a slow moment meets all of them.

    Warms up first (20 runs, or a tenth of the budget), then goes on until every interval is narrow or the budget is spent.
    """
    for run in runs:
        _warm_up(run, budget_s * _WARM_UP_RATIO / len(runs), clock)
    times: list[list[float]] = [[] for _ in runs]
    began_s = clock.monotonic_s()
    while True:
        for run, taken in zip(runs, times, strict=True):
            taken.extend(_block(run, clock))
        if clock.monotonic_s() - began_s >= budget_s or all(_is_enough(taken) for taken in times):
            return times


def _warm_up(run: Callable[[], object], budget_s: float, clock: Clock) -> None:
    began_s = clock.monotonic_s()
    for _ in range(_WARM_UP_RUNS):
        run()
        if clock.monotonic_s() - began_s >= budget_s:
            return


def _block(run: Callable[[], object], clock: Clock) -> list[float]:
    times = []
    for _ in range(_BLOCK):
        began_s = clock.monotonic_s()
        run()
        times.append(clock.monotonic_s() - began_s)
    return times


def _is_enough(times_s: Sequence[float]) -> bool:
    if len(times_s) < _MIN_RUNS:
        return False
    timing = summarize(times_s)
    return timing.ci_ms[1] - timing.ci_ms[0] <= _NARROW_RATIO * timing.p50_ms
