"""Whether a new version stays: pure functions over what was observed. Effects live in `deployment`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """PROMOTE: it keeps its promise. HOLD: it answers, and slower than promised, or too little was seen. ROLLBACK: it does not answer."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Requests to one version: the times of those that were answered, and the number of those that were not."""

    latencies_ms: tuple[float, ...] = ()
    num_errors: int = 0

    @property
    def num_requests(self) -> int:
        return len(self.latencies_ms) + self.num_errors

    @property
    def error_ratio(self) -> float:
        return self.num_errors / self.num_requests if self.num_requests else 0.0

    @property
    def p95_ms(self) -> float:
        return percentile(self.latencies_ms, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict with the reason that a user reads."""

    verdict: Verdict
    reason: str


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def decide(new: Window, *, slo_p95_ms: float, max_error_ratio: float = 0.0, min_requests: int = 5) -> Decision:
    """Judge a new version by its first requests.

    Args:
        new: What was observed.
        slo_p95_ms: What the endpoint promises.
        max_error_ratio: Share of requests that may fail.
        min_requests: Fewer than this decide nothing.
    """
    if new.num_requests and new.error_ratio > max_error_ratio:
        return Decision(
            verdict=Verdict.ROLLBACK, reason=f"{new.num_errors} of {new.num_requests} requests failed, wanted {max_error_ratio:.0%} at most"
        )
    if new.num_requests < min_requests:
        return Decision(verdict=Verdict.HOLD, reason=f"{new.num_requests} requests were seen, wanted {min_requests} at least")
    observed = f"p95 of {new.num_requests} requests is {new.p95_ms:.1f} ms"
    if new.p95_ms > slo_p95_ms:
        return Decision(verdict=Verdict.HOLD, reason=f"{observed}, wanted {slo_p95_ms:g} ms at most")
    return Decision(verdict=Verdict.PROMOTE, reason=f"{observed}, within {slo_p95_ms:g} ms")
