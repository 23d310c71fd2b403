"""Which trial is not begun yet although it could be: one that would not be on the front even if it became as accurate as the best so far.

What a student costs is known before its first training step. MO-ASHA (arXiv 2106.12639) compares trials from its first rung on; this is a rung
before it, at no epochs: where a trial that was trained to the last rung is as good as any in what only training tells, and better in what is known
already, a newcomer can join the front only by being the best of all. Such a newcomer waits, and its worker goes to one that can extend the front with
less. It is not rejected: when no new trial may begin any more, and time and money are left, those that wait are trained as all others. Until then a
sampler sees them as just missing a constraint, so it proposes elsewhere.

Pure: facts in, answers out, the same while a study runs and when it is replayed. Shapes: N results, D losses.
"""

from __future__ import annotations

import numpy as np

from foundry_ray.search.schedulers.facts import Fact, Left, Reached

MOST_IN_A_ROW = 8
"""After so many without a new result one is begun all the same, so that a sampler that learns hears of the region where it is."""
NEARLY = 0.2
"""Share of the range of a loss over the trials of the last rung: who is so near to the best counts as the best. Larger shares find as much of the
front in fewer epochs, and its most accurate end later."""


class Postponing:
    """Folds facts into who waits for a first epoch.

    Args:
        last_rung: Results of this rung count, and of no other: what a trial is before it may still be far from what it becomes.
    """

    def __init__(self, *, last_rung: int) -> None:
        self._last_rung = last_rung
        self._results: dict[int, tuple[float, ...]] = {}
        self._numbers_N: list[int] = []
        self._points_ND: np.ndarray | None = None
        self._new: list[tuple[int, tuple[float, ...]]] = []
        self._num_in_a_row = 0
        self._waiting: dict[int, None] = {}

    def saw(self, fact: Fact) -> None:
        """Take note of a fact."""
        if isinstance(fact, Reached):
            self._num_in_a_row = 0
            if fact.rung == self._last_rung:
                self._note(fact.number, fact.losses)
        elif isinstance(fact, Left) and fact.reason == "postponed":
            self._num_in_a_row += 1
            self._waiting[fact.number] = None
        else:
            self._waiting.pop(fact.number, None)
            if isinstance(fact, Left) and fact.reason == "infeasible":
                self._forget(fact.number)

    def better_than(self, losses: tuple[float, ...]) -> int | None:
        """The trial that keeps a newcomer off the front unless it becomes the best of all; None where the newcomer is to begin.

        Args:
            losses: Of the newcomer, not finite where only training tells them.
        """
        known_D = np.array(losses)
        is_known_D = np.isfinite(known_D)
        points_ND = self._all_points(len(known_D))
        if self._num_in_a_row >= MOST_IN_A_ROW or not is_known_D.any() or not len(points_ND):
            return None
        best_D, worst_D = points_ND.min(axis=0), points_ND.max(axis=0)
        goal_D = np.where(is_known_D, known_D, best_D + NEARLY * (worst_D - best_D))
        no_worse_N = (points_ND <= goal_D).all(axis=1)
        is_better_N = no_worse_N & (points_ND < goal_D)[:, is_known_D].any(axis=1)
        found = np.flatnonzero(is_better_N)
        if not len(found):
            return None
        return self._numbers_N[min(found, key=lambda index: (*points_ND[index], index))]

    def next(self) -> int | None:
        """Who has waited longest."""
        return next(iter(self._waiting), None)

    def _note(self, number: int, losses: tuple[float, ...]) -> None:
        """Keep a result that has all its losses; one that is told again, as with the latency of another device, takes the place of the first."""
        if number in self._results:
            self._points_ND = None
        if not np.isfinite(losses).all():
            return
        self._results[number] = losses
        self._new.append((number, losses))

    def _forget(self, number: int) -> None:
        """It is no candidate any more, so it keeps nobody off the front."""
        if self._results.pop(number, None) is not None:
            self._points_ND = None

    def _all_points(self, num_losses: int) -> np.ndarray:
        """The results (N, D), in the order of `_numbers_N`."""
        if self._points_ND is None:
            self._numbers_N, self._points_ND = [], np.empty((0, num_losses))
            self._new = list(self._results.items())
        if self._new:
            self._numbers_N += [number for number, _ in self._new]
            self._points_ND = np.concatenate([self._points_ND, np.array([losses for _, losses in self._new])])
            self._new = []
        return self._points_ND
