"""What Ray does between the call of `fit` and the first line of a worker's own code, by Ray's own timeline. The same for every contestant."""

from __future__ import annotations

from typing import Any


def split(called: float, entered: float) -> dict[str, float]:
    """Seconds by what they went into, from `called` to `entered` (seconds since the epoch).

    `controller`: until Ray Train's controller runs. `workers`: until the last worker's actor is made. `context`: until the workers have unpickled
    what they are to do, for which they import its modules. `process_group`: until the training function begins. One phase, `group`, where the
    timeline does not know.
    """
    import ray

    events: list[dict[str, Any]] = [event for event in ray.timeline() if event.get("ph") == "X" and event["ts"] / 1e6 >= called]
    marks = {
        "controller": _last(events, "task::TrainController.run", is_end=False),
        "workers": _last(events, "task::RayTrainWorker.__init__", is_end=True),
        "context": _last(events, "task::RayTrainWorker.init_train_context", is_end=True),
        "process_group": entered,
    }
    phases, before = {}, called
    for name, at in marks.items():
        if at is None or not before <= at <= entered:
            return {"group": entered - called}
        phases[name], before = at - before, at
    return phases


def _last(events: list[dict[str, Any]], category: str, *, is_end: bool) -> float | None:
    """When the last event of a category began or ended."""
    return max(((event["ts"] + is_end * event["dur"]) / 1e6 for event in events if event["cat"] == category), default=None)
