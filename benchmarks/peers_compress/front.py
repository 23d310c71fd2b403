"""Fronts of accuracy and latency held against each other: for each of a peer's students the best of ours that is at most as slow."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """One point over its seeds. `is_trained`: its seeds differ by training, and not by calibration rows alone."""

    contestant: str
    point: str
    is_trained: bool
    accuracies: tuple[float, ...]
    p50_ms: float
    p95_ms: float
    runtime: str
    size_bytes: int
    num_params: int
    p50_by_runtime: dict[str, float]
    seconds: float
    note: str

    @property
    def accuracy(self) -> float:
        """The mean of its seeds, a share."""
        return statistics.mean(self.accuracies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What repeated seeds do to an accuracy: the standard deviation of one of them, a share, pooled over students, and its degrees of freedom."""

    deviation: float
    freedom: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One of a peer's students and ours beside it; differences are ours minus the peer's, in points of accuracy.

    Attributes:
        half_width: Of the 95 % interval of `difference`.
        faster: How many times faster the fastest of ours is that is at least as accurate but for that half width; 0 where there is none.
    """

    peer: str
    ours: str
    difference: float
    half_width: float
    faster: float


def noise(students: Sequence[Student]) -> Noise:
    """The pooled deviation of those that have two seeds or more."""
    repeated = [student.accuracies for student in students if len(student.accuracies) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum((value - statistics.mean(values)) ** 2 for values in repeated for value in values)
    return Noise(deviation=math.sqrt(squares / freedom) if freedom else 0.0, freedom=freedom)


def compare(peer: Student, ours: Sequence[Student], *, trained: Noise, calibrated: Noise) -> Comparison:
    """The best of ours that is at most as slow beside one of a peer's. Raises ValueError where all of ours are slower."""
    best = max((student for student in ours if student.p50_ms <= peer.p50_ms), key=lambda student: student.accuracy, default=None)
    if best is None:
        raise ValueError(f"{peer.contestant} {peer.point} takes {peer.p50_ms:.4f} ms, which none of ours does; add a smaller recipe")
    half_width = _half_width((best, peer), trained, calibrated)
    as_good = [student.p50_ms for student in ours if student.accuracy >= peer.accuracy - half_width]
    return Comparison(
        peer=peer.point,
        ours=best.point,
        difference=100 * (best.accuracy - peer.accuracy),
        half_width=100 * half_width,
        faster=peer.p50_ms / min(as_good) if as_good else 0.0,
    )


def _half_width(sides: Sequence[Student], trained: Noise, calibrated: Noise) -> float:
    """Of the 95 % interval of a difference of two means."""
    variance = sum((trained if side.is_trained else calibrated).deviation ** 2 / len(side.accuracies) for side in sides)
    freedom = trained.freedom
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * math.sqrt(variance) if freedom else 0.0
