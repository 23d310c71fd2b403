"""Collection of garbage in two phases, so that nothing is lost that somebody begins to need meanwhile (`foundry store gc`).

    1 mark     what nothing names and what is older than the grace is written down: gc/<n>/plan
    2 delete   after the grace: gc/<n>/closed, look again, delete what still nothing names, gc/<n>/done

The second look comes after `closed`, which publishers and runs look for after they have written what names an object (`artifacts.plans`).
Every step can be repeated: a collector that is killed is followed by one that looks again and deletes the rest. One collects at a time (a
lease, asked for before each batch). Ages are told by the store's own clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from foundry_ray.artifacts import abort_stale_uploads, protect_uploads
from foundry_ray.artifacts.manifests import put_json
from foundry_ray.artifacts.plans import CLOCK_KEY, LATE_DELETE_S, Candidates, Plan, list_plans, read_candidates
from foundry_ray.artifacts.threads import NUM_THREADS
from foundry_ray.clock import utc
from foundry_ray.config import LimitsConfig, RetentionConfig
from foundry_ray.errors import Conflict
from foundry_ray.housekeeping.retention import COLLECTORS, WHY_KEPT, garbage
from foundry_ray.housekeeping.roots import Policy, find_needed
from foundry_ray.protocols import ArtifactStore, Clock, ObjectInfo, Reporter
from foundry_ray.runlog import Lease, hold
from foundry_ray.types import FORMAT_VERSION, Json, to_json

DEFAULT_GRACE_S = 24 * 3600.0
_BATCH = 1000  # what one request of S3 deletes
_UPLOAD_AGE_S = 24 * 3600.0  # at least: whoever uploads the same bytes goes on with what is there
_TIERS = ("runs/", "stages/", "artifacts/", "")  # what names others goes first, so that nothing that is left names what is gone
Action = Literal["looked", "clean", "marked", "waiting", "deleted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTally:
    """Objects of one kind: what goes, what stays, and why it stays."""

    kind: str
    num_going: int
    going_bytes: int
    num_staying: int
    staying_bytes: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What a collection did, or would do.

    Attributes:
        action: looked (a dry run), clean (nothing to do), marked, waiting (marked before, and younger than the grace), or deleted.
        kinds: By kind. After `waiting`: as far as they were marked.
        ready_in_s: When what is marked may be deleted; 0 where that is now or nothing is marked.
        num_uploads: Uploads that were given up long ago, and whose parts are gone now.
    """

    store: str
    action: Action
    grace_s: float
    kinds: tuple[KindTally, ...] = ()
    ready_in_s: float = 0.0
    num_uploads: int = 0

    @property
    def num_going(self) -> int:
        return sum(kind.num_going for kind in self.kinds)

    @property
    def going_bytes(self) -> int:
        return sum(kind.going_bytes for kind in self.kinds)


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Collects one store.

    Attributes:
        grace_s: So long nothing that nobody names is deleted: between being written and being marked, and again until it is deleted.
        name: Who collects, for others who wait.
        num_threads: Requests at once.
    """

    store: ArtifactStore
    retention: RetentionConfig
    grace_s: float
    clock: Clock
    reporter: Reporter
    limits: LimitsConfig
    name: str = "`foundry store gc`"
    num_threads: int = NUM_THREADS

    def look(self) -> Collection:
        """What would go if all were marked and deleted now. Writes nothing, and so tells ages by this machine's clock.

        Raises:
            ArtifactCorrupt: A needed document is unreadable.
        """
        now_s = self.clock.now_s()
        objects = list(self.store.list(""))
        doomed = self._garbage(objects, cutoff_s=now_s - self.grace_s, now_s=now_s)
        return self._outcome("looked", objects, doomed)

    def collect(self) -> Collection:
        """Delete what was marked a grace ago; else mark. Without a grace, both at once.

        Raises:
            ArtifactCorrupt: A needed document is unreadable; nothing was deleted.
            Conflict: Somebody else is collecting.
            StoreError: The store has no create-only writes.
        """
        try:
            with hold(
                self.store,
                COLLECTORS,
                run_id=self.name,
                ttl_s=self.limits.lease_ttl_s,
                wait_s=2 * self.limits.lease_ttl_s,
                clock=self.clock,
                reporter=self.reporter,
                is_done=lambda: False,
                what="a collection of this store",
            ) as lease:
                assert lease is not None
                outcome = self._collect(lease)
                protect_uploads(self.store)
                return replace(outcome, num_uploads=abort_stale_uploads(self.store, max(self.grace_s, _UPLOAD_AGE_S), self.clock))
        except Conflict as error:
            message = f"Somebody else collects the garbage of {self.store.uri}: {error.message}"
            raise Conflict(message, hint="let it finish, then repeat.", key=error.facts.get("key")) from error

    def _collect(self, lease: Lease) -> Collection:
        now_s = self._now_s()
        outcome = None
        for plan in list_plans(self.store):
            if plan.planned_at_s is None or plan.done_at_s is not None:
                continue
            age_s = now_s - plan.planned_at_s
            if plan.closed_at_s is None and age_s < self.grace_s:
                return self._waiting(plan, self.grace_s - age_s)
            outcome = self._delete(plan, lease)
        if outcome is None or self.grace_s == 0:
            plan_or_none, marked = self._mark(lease)
            outcome = marked if outcome is None or plan_or_none else outcome
            if plan_or_none and self.grace_s == 0:
                outcome = self._delete(plan_or_none, lease)
        self._clear(now_s, lease)
        return outcome

    def _mark(self, lease: Lease) -> tuple[Plan | None, Collection]:
        now_s = self._now_s()
        objects = list(self.store.list(""))
        cutoff_s = now_s - self.grace_s
        doomed = self._garbage(objects, cutoff_s=cutoff_s, now_s=now_s)
        if not doomed:
            return None, self._outcome("clean", objects, [])
        plan = Plan(number=max((plan.number for plan in list_plans(self.store)), default=0) + 1)
        candidates = Candidates(created_at=self._time(), grace_s=self.grace_s, cutoff_s=cutoff_s, candidates=tuple(info.key for info in doomed))
        lease.confirm()
        put_json(self.store, plan.key("plan"), to_json(candidates), if_absent=True)
        return plan, self._outcome("marked", objects, doomed, ready_in_s=self.grace_s)

    def _delete(self, plan: Plan, lease: Lease) -> Collection:
        """The second phase. A candidate that was written since, or that something young names, is spared."""
        candidates = read_candidates(self.store, plan)
        lease.confirm()
        if plan.closed_at_s is None:
            put_json(self.store, plan.key("closed"), {"format_version": FORMAT_VERSION, "closed_at": self._time()})
        now_s = self._now_s()
        objects = list(self.store.list(""))
        marked = set(candidates.candidates)
        doomed = [info for info in self._garbage(objects, cutoff_s=candidates.cutoff_s, now_s=now_s) if info.key in marked]
        deleted = 0
        for batch in _batches(info.key for info in doomed):
            lease.confirm()
            self.store.delete(*batch)
            deleted += len(batch)
            self.reporter.progress(deleted, len(doomed), "deleting")
        done: dict[str, Json] = {"format_version": FORMAT_VERSION, "num_deleted": len(doomed), "done_at": self._time()}
        put_json(self.store, plan.key("done"), done)
        return self._outcome("deleted", objects, doomed)

    def _garbage(self, objects: Sequence[ObjectInfo], *, cutoff_s: float, now_s: float) -> list[ObjectInfo]:
        policy = Policy(retention=self.retention, cutoff_s=cutoff_s, now_s=now_s)
        return garbage(objects, find_needed(self.store, objects, policy, num_threads=self.num_threads), policy)

    def _waiting(self, plan: Plan, ready_in_s: float) -> Collection:
        marked = set(read_candidates(self.store, plan).candidates)
        objects = list(self.store.list(""))
        return self._outcome("waiting", objects, [info for info in objects if info.key in marked], ready_in_s=ready_in_s)

    def _clear(self, now_s: float, lease: Lease) -> None:
        """Remove the leases of collectors before this one, and plans that were carried out long ago; the newest stays, so that numbers go up."""
        leases = [info.key for info in self.store.list(f"leases/{COLLECTORS}/")]
        self.store.delete(*(key for key in leases if int(key.rpartition("/")[2][:8]) < lease.fence))
        for plan in list_plans(self.store)[:-1]:
            if plan.done_at_s is not None and now_s - plan.done_at_s >= max(self.grace_s, LATE_DELETE_S):
                for what in ("closed", "plan", "done"):  # without `closed`, it marks nothing
                    self.store.delete(plan.key(what))

    def _outcome(self, action: Action, objects: Sequence[ObjectInfo], going: Sequence[ObjectInfo], *, ready_in_s: float = 0.0) -> Collection:
        return Collection(store=self.store.uri, action=action, grace_s=self.grace_s, kinds=_tally(objects, going), ready_in_s=ready_in_s)

    def _now_s(self) -> float:
        """The store's time: that of an object which is written now."""
        put_json(self.store, CLOCK_KEY, {"format_version": FORMAT_VERSION})
        info = self.store.stat(CLOCK_KEY)
        assert info is not None
        return info.modified_at_s

    def _time(self) -> str:
        return utc(self.clock.now_s())


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    def tier(key: str) -> int:
        return next(number for number, prefix in enumerate(_TIERS) if key.startswith(prefix))

    for _, group in groupby(sorted(keys, key=lambda key: (tier(key), key)), key=tier):
        members = list(group)
        yield from (members[start : start + _BATCH] for start in range(0, len(members), _BATCH))


def _tally(objects: Sequence[ObjectInfo], going: Sequence[ObjectInfo]) -> tuple[KindTally, ...]:
    doomed = {info.key for info in going}
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for info in objects:
        counts = sums[info.key.partition("/")[0]]
        place = 0 if info.key in doomed else 2
        counts[place] += 1
        counts[place + 1] += info.size_bytes
    return tuple(
        KindTally(
            kind=kind,
            num_going=counts[0],
            going_bytes=counts[1],
            num_staying=counts[2],
            staying_bytes=counts[3],
            why=WHY_KEPT.get(kind, "not foundry's, never touched") if counts[2] else "",
        )
        for kind, counts in sorted(sums.items())
    )
