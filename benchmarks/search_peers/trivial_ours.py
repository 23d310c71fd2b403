"""Trials that do nothing as a study of foundry: its own executor on the local head, its journal in a folder.

    FOUNDRY_HOME=HOME PYTHONPATH=. python -m benchmarks.search_peers.trivial_ours FOLDER NUM_TRIALS SAMPLER

Writes FOLDER/ours.json: seconds from the call to the end, the seconds at which each trial ended, and the driver's memory in MB then. Ray runs already
when the clock starts; the actors do not.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path
from typing import Literal

import psutil

from benchmarks.search_peers.executing import execute
from benchmarks.search_peers.trivial import OBJECTIVE, SPACE, TrivialEnvironment
from benchmarks.search_table import driving
from foundry_ray.clock import SystemClock
from foundry_ray.context import open_context
from foundry_ray.search.events import Event
from foundry_ray.search.samplers import Sampler


def main(folder: Path, num_trials: int, kind: Literal["random", "tpe"]) -> None:
    """Connect, then time."""
    ends_s: list[float] = []
    memory_mb: list[float] = []
    process = psutil.Process()

    def note(event: Event) -> None:
        if event.kind == "rung":
            ends_s.append(time.perf_counter() - began_s)
            memory_mb.append(process.memory_info().rss / 1e6)

    with open_context(f"file://{folder}/store-{secrets.token_hex(4)}") as context:
        sampler, clock = Sampler(kind=kind, space=SPACE, objectives=(OBJECTIVE,), seed=0), SystemClock()
        coordinator = driving.coordinator(
            SPACE, sampler, scheduler=driving.TO_THE_END, num_trials=num_trials, seed=0, clock=clock, store=context.store
        )
        coordinator.listen(note)
        _ = context.session
        began_s = time.perf_counter()
        execute(coordinator, TrivialEnvironment(), context=context)
        total_s = time.perf_counter() - began_s
    (folder / "ours.json").write_text(json.dumps({"total_s": total_s, "ends_s": ends_s, "memory_mb": memory_mb}))


if __name__ == "__main__":
    chosen: Literal["random", "tpe"] = "tpe" if sys.argv[3] == "tpe" else "random"
    main(Path(sys.argv[1]), int(sys.argv[2]), chosen)
