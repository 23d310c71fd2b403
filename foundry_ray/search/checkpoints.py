"""Which checkpoints of a study somebody can still need. Pure: it is told what happens, and answers with what may go.

A trial needs its last one, from which it goes on, or its student is finished: members of the front are trials, so theirs stay. Where trials take
over weights (PBT), a donor's stay for as long as a member has not passed their rung, also when the donor failed after it. Else, what a failed trial
had is needed by nobody.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from foundry_ray.search.events import Event
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import TrialState


class Checkpoints:
    """Keys by trial and rung, and how many trials use each.

    Args:
        prefix: Where this study's own lie. Those of other studies are never given up here.
        have_takers: Whether trials take over the weights of others.
    """

    def __init__(self, prefix: str, *, have_takers: bool) -> None:
        self._prefix = prefix
        self._have_takers = have_takers
        self._held: dict[int, dict[int, str]] = {}
        self._users: Counter[str] = Counter()
        self._failed: set[int] = set()
        self._stands: dict[int, int] = {}  # who may still take over weights, and the last rung that it has passed

    def saw(self, event: Event, record: TrialRecord) -> list[str]:
        """Take note of what happened to a trial. Returns the keys that nobody needs once this is durable."""
        number, trial = record.trial.number, record.trial
        held = self._held.setdefault(number, {})
        if trial.checkpoint is not None and trial.rung is not None and held.get(trial.rung) != trial.checkpoint:
            freed = self._release(number, [trial.rung]) if trial.rung in held else []
            held[trial.rung] = trial.checkpoint
            self._users[trial.checkpoint] += 1
        else:
            freed = []
        self._stand(record)
        if trial.state is TrialState.FAILED:
            self._failed.add(number)
        else:
            self._failed.discard(number)
        return freed + self._superseded([number] if not self._have_takers else list(self._held), event)

    def unneeded(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys under this study's prefix that nobody needs: a killed driver left them."""
        return [key for key in keys if key.startswith(self._prefix) and not self._users[key]]

    def _stand(self, record: TrialRecord) -> None:
        if record.trial.state in (TrialState.RUNNING, TrialState.WAITING) and not record.is_adopted:
            self._stands[record.trial.number] = -1 if record.trial.rung is None else record.trial.rung
        else:
            self._stands.pop(record.trial.number, None)

    def _superseded(self, numbers: Iterable[int], event: Event) -> list[str]:
        if event.kind not in ("rung", "infeasible", "failed", "died", "duplicate", "dominated"):
            return []
        floor = min(self._stands.values(), default=None) if self._have_takers else None
        freed = []
        for number in numbers:
            held = self._held[number]
            kept = max(held, default=0) if number not in self._failed else math.inf
            freed += self._release(number, [rung for rung in held if rung < kept and (floor is None or rung < floor)])
        return freed

    def _release(self, number: int, rungs: Iterable[int]) -> list[str]:
        freed = []
        for rung in rungs:
            key = self._held[number].pop(rung)
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                freed += [key] if key.startswith(self._prefix) else []
        return freed
