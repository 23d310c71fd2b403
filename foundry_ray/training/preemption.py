"""How a driver stops its workers in good order: they save a checkpoint at once, and end.

A node that is to be taken away is announced to the cluster (`ray drain-node`, a cloud's notice through the autoscaler, SIGTERM to its Ray
process, which waits for what runs there). The driver, which looks at the cluster anyway, sees that within a second or two and asks the workers
for a checkpoint, through one small object in the store. Ray Train's own watcher does the same with an actor more per group, later
(it polls every 5 s), and its question to it is a barrier of all workers, which would stand in every step's way: so it stays off.
The same object asks for the end where the driver leaves, or where the group is to be started larger.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from enum import IntEnum

from foundry_ray.artifacts.manifests import get_json, put_json
from foundry_ray.errors import Preempted, StoreError
from foundry_ray.protocols import ArtifactStore


class Ask(IntEnum):
    """What the workers are asked to do, the most urgent last: all of them save and stop, and differ in what comes after."""

    NOTHING = 0
    RESIZE = 1
    PREEMPTED = 2
    LEAVE = 3


_WHY = {
    Ask.RESIZE: "more workers fit now, so this group ends.",
    Ask.PREEMPTED: "a node of this group is to be taken away, so the group ends.",
    Ask.LEAVE: "the driver has left, so its workers stop.",
}


def ask_key(progress_key: str, attempt: str) -> str:
    """Where an attempt's workers look."""
    return f"{progress_key.rpartition('/')[0]}/stop-{attempt}.json"


def ask(store: ArtifactStore, key: str, what: Ask) -> None:
    """Ask; heard within about a second. Raises StoreError."""
    put_json(store, key, int(what))


def asked(store: ArtifactStore, key: str) -> Ask:
    """What is asked. NOTHING where nobody answers: the next look will tell."""
    try:
        if store.stat(key) is None:
            return Ask.NOTHING
        value = get_json(store, key)
    except StoreError:
        return Ask.NOTHING
    return Ask(value) if isinstance(value, int) and value in set(Ask) else Ask.LEAVE


class Ear:
    """What rank 0 has heard: `listen` looks into the store, on a thread of its own; `heard` answers at once."""

    def __init__(self, store: ArtifactStore, key: str) -> None:
        self._store = store
        self._key = key
        self._heard = Ask.NOTHING

    def listen(self) -> None:
        """Look."""
        self._heard = max(self._heard, asked(self._store, self._key))

    def heard(self) -> Ask:
        """The most urgent that was asked so far."""
        return self._heard


def forget(store: ArtifactStore, key: str) -> None:
    """Remove the question, once its group has ended."""
    with suppress(StoreError):
        store.delete(key)


def answer(what: Ask) -> Preempted:
    """What workers raise that did as asked: their checkpoint is committed."""
    return Preempted(_WHY[what], hint="run the same command: it goes on from the last checkpoint.")


def is_announced(draining: Collection[str], nodes: Collection[str]) -> bool:
    """Whether one of these nodes, where a group runs, is to be taken away."""
    return not set(draining).isdisjoint(nodes)
