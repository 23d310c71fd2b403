"""One of many processes that use one store at once, and write down what they asked and what they were answered.

    python -m foundry_ray.testing.store_crowd URI HOME FOLDER NUMBER SECONDS

It publishes (contents recur, so that processes meet each other's blobs), reads, drops, promotes, takes over a study's journal under a lease, and
collects garbage with a short grace. The record is FOLDER/<number>.jsonl; times are of the machine's monotonic clock.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from foundry_ray import registry, runlog
from foundry_ray.artifacts import open_store
from foundry_ray.artifacts.manifests import fetch, publish
from foundry_ray.clock import SystemClock
from foundry_ray.config import LimitsConfig, RetentionConfig, Settings
from foundry_ray.errors import Conflict
from foundry_ray.housekeeping.gc import Collector
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import moves
from foundry_ray.search.events import Event
from foundry_ray.search.journal import Journal
from foundry_ray.testing.histories import Operation, Span
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.types import Json, RunRecord, RunStatus, StageRecord, StageStatus

NAME, ALIAS, NUM_VERSIONS = "shared", "live", 8
STUDY = "5" * 32
GRACE_S = 6.0
_POOL = 24
_CREATED_AT = "2026-01-01T00:00:00+00:00"
_LEASE_TTL_S = 20.0


def content(number: int) -> dict[str, bytes]:
    """One of a few artifacts; neighbours share a file."""
    return {"own": b"own %d" % number * 50, "shared": b"shared %d" % (number // 2) * 50}


class _User:
    def __init__(self, store: ArtifactStore, number: int, log: Path) -> None:
        self._store = store
        self._number = number
        self._random = random.Random(number)
        self._log = log.open("a", buffering=1)
        self._held: dict[str, tuple[str, int]] = {}
        self._moves: set[int] = set()
        self._count = 0
        self._clock = SystemClock()

    def run(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        acts: list[Callable[[], None]] = [self._publish] * 4 + [self._read] * 4 + [self._drop] * 2 + [self._promote] * 4 + [self._follow] * 4
        acts += [self._resume, self._collect]
        while time.monotonic() < until_s:
            self._random.choice(acts)()
        for run_id, (key, which) in self._held.items():
            self._say("held", {"run": run_id, "key": key, "content": which})

    def _publish(self) -> None:
        which = self._random.randrange(_POOL)
        ref = publish(self._store, kind="model", files=content(which), created_at=_CREATED_AT)
        self._count += 1
        run_id = f"user{self._number:02d}-20260101-000000-{self._count:04x}"
        stage = StageRecord(name="student", key="", status=StageStatus.DONE, outputs={"key": ref.key})
        runlog.save_run(self._store, RunRecord(run_id=run_id, pipeline="p", config={}, versions={}, stages=(stage,), status=RunStatus.DONE))
        self._held[run_id] = (ref.key, which)
        self._say("published", {"key": ref.key})

    def _read(self) -> None:
        if self._held:
            key, which = self._random.choice(list(self._held.values()))
            with tempfile.TemporaryDirectory() as folder:
                found = {name: path.read_bytes() for name, path in fetch(self._store, key, Path(folder)).items()}
            if found != content(which):
                self._say("wrong", {"key": key, "content": which})

    def _drop(self) -> None:
        if self._held:
            run_id = self._random.choice(list(self._held))
            del self._held[run_id]
            runlog.delete_run(self._store, run_id)

    def _promote(self) -> None:
        version, began_s = self._random.randint(1, NUM_VERSIONS), time.monotonic()
        try:
            move = registry.promote(self._store, NAME, version, alias=ALIAS, note=registry.write_note(self._clock, reason=f"by {self._number}"))
        except Conflict:
            self._say("conflict", {})
            return
        # A promotion to where the alias points already answers with the move that stands, which may be an older one of this very process.
        is_write = move.reason == f"by {self._number}" and move.number not in self._moves
        self._moves.add(move.number)
        self._operation("write" if is_write else "read", move.number, move.version, began_s)

    def _follow(self) -> None:
        began_s = time.monotonic()
        pointer = moves.newest(self._store, NAME, ALIAS)
        self._operation("read", pointer.move.number if pointer else 0, pointer.move.version if pointer else None, began_s)

    def _resume(self) -> None:
        with runlog.hold(
            self._store,
            STUDY,
            run_id=f"user{self._number}",
            ttl_s=_LEASE_TTL_S,
            wait_s=600.0,
            clock=self._clock,
            reporter=RecordingReporter(),
            is_done=lambda: False,
        ) as lease:
            assert lease is not None
            began_s = time.monotonic()
            journal = Journal(self._store, f"studies/{STUDY}/journal", driver=f"{self._number}-{self._count}-{began_s}")
            journal.open()
            self._count += 1
            journal.append(Event(kind="ask", number=self._number * 1_000_000 + self._count))
            journal.commit()
            lease.check()
            self._say("event", {"number": self._number * 1_000_000 + self._count})
            span = Span(process=self._number, lease=STUDY, fence=lease.fence, began_s=began_s, ended_s=time.monotonic())
        self._say("span", asdict(span))

    def _collect(self) -> None:
        try:
            done = Collector(
                store=self._store,
                retention=RetentionConfig(),
                grace_s=GRACE_S,
                clock=self._clock,
                reporter=RecordingReporter(),
                limits=LimitsConfig(lease_ttl_s=_LEASE_TTL_S),
            ).collect()
        except Conflict:
            self._say("conflict", {})
        else:
            self._say("collected", {"action": done.action, "num_going": done.num_going})

    def _operation(self, kind: str, number: int, version: int | None, began_s: float) -> None:
        value = str(version) if version is not None else None
        said = Operation(
            process=self._number,
            kind="write" if kind == "write" else "read",
            register=ALIAS,
            number=number,
            value=value,
            began_s=began_s,
            ended_s=time.monotonic(),
        )
        self._say("operation", asdict(said))

    def _say(self, what: str, fields: dict[str, Json]) -> None:
        self._log.write(json.dumps({"what": what, **fields}) + "\n")


def main() -> None:
    """Use the store until the time is up."""
    uri, home, folder, number, seconds = sys.argv[1:]
    store = open_store(uri, settings=Settings(home=Path(home), store_retry_s=60.0))
    _User(store, int(number), Path(folder) / f"{number}.jsonl").run(float(seconds))


if __name__ == "__main__":
    main()
