"""What publishers and runs see of a collection of garbage: the plans under `gc/`, and which keys they may delete at any moment.

    gc/<n>/plan      what nothing named when the collector looked: the candidates
    gc/<n>/closed    the collector is about to look again, and then deletes candidates that still nothing names
    gc/<n>/done      it has deleted them

A document that is written before `closed` is seen by the second look, so whatever it names stays. Whoever writes one later sees `closed`: a
candidate that it needs is *marked*, which means as good as deleted. That is the whole protocol; nobody waits for a lock, and no clocks are
compared but the store's with itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from foundry_ray.errors import ArtifactNotFound
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import FORMAT_VERSION, from_json, parse_json

PREFIX = "gc/"
CLOCK_KEY = "gc/clock"
LATE_DELETE_S = 3600.0
"""So long after `done` a delete may still come, from a collector that was stopped in the middle of one and replaced."""
_KEY = re.compile(r"gc/(\d{8})/(plan|closed|done)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One collection as a listing shows it. Times are the store's; None: not written."""

    number: int
    planned_at_s: float | None = None
    closed_at_s: float | None = None
    done_at_s: float | None = None

    @property
    def is_deleting(self) -> bool:
        return self.closed_at_s is not None and self.done_at_s is None

    def key(self, what: str) -> str:
        """The key of its `plan`, `closed` or `done`."""
        return f"{PREFIX}{self.number:08d}/{what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What a plan may delete: objects that were older than `cutoff_s` (the store's time) and that nothing named."""

    created_at: str
    grace_s: float
    cutoff_s: float
    candidates: tuple[str, ...]
    format_version: int = FORMAT_VERSION


def list_plans(store: ArtifactStore) -> list[Plan]:
    """All plans, oldest first."""
    times: dict[int, dict[str, float]] = {}
    for info in store.list(PREFIX):
        match = _KEY.fullmatch(info.key)
        if match:
            times.setdefault(int(match[1]), {})[match[2]] = info.modified_at_s
    return [
        Plan(number=number, planned_at_s=found.get("plan"), closed_at_s=found.get("closed"), done_at_s=found.get("done"))
        for number, found in sorted(times.items())
    ]


def read_candidates(store: ArtifactStore, plan: Plan) -> Candidates:
    """What a plan may delete. Raises ArtifactNotFound or ArtifactCorrupt."""
    key = plan.key("plan")
    return from_json(Candidates, parse_json(store.get(key), what=key), what=key)


def marked_keys(store: ArtifactStore, *, now_s: float) -> frozenset[str]:
    """What a collector may delete at any moment from now on, although somebody needs it. `now_s` is the store's time."""
    found: set[str] = set()
    for plan in list_plans(store):
        is_late = plan.done_at_s is not None and now_s - plan.done_at_s >= LATE_DELETE_S
        if plan.closed_at_s is not None and not is_late:
            found.update(_candidates(store, plan))
    return frozenset(found)


def deleting_plan(store: ArtifactStore, is_needed: Callable[[str], bool]) -> int | None:
    """The number of a plan that is being carried out and may delete what is needed; None where there is none."""
    for plan in list_plans(store):
        if plan.is_deleting and any(is_needed(key) for key in _candidates(store, plan)):
            return plan.number
    return None


def _candidates(store: ArtifactStore, plan: Plan) -> tuple[str, ...]:
    try:
        return read_candidates(store, plan).candidates
    except ArtifactNotFound:
        return ()  # an old plan that was cleared away since it was listed
