"""Every order in which a few actors can use a store: a deterministic scheduler over threads that hand a baton on.

An actor is a function of a store. Before each operation it waits for its turn; the explorer decides whose turn it is, depth first, and runs
the whole world again from its beginning for each order. Actors are deterministic, so that what an actor will do is a function of the answers
that it got: two prefixes after which the store and everybody's answers are equal have the same future, and it is explored once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foundry_ray.errors import FoundryError
from foundry_ray.protocols import ObjectInfo
from foundry_ray.testing.stores import MemoryStore

_TURN_TIMEOUT_S = 20.0
_PRIVATE = ("leases/", "gc/clock")  # touched by one collector alone, so their order with others' operations changes nothing


class Killed(BaseException):
    """What an actor meets that the explorer ended: no handler of errors sees it, as none sees kill -9."""


class Actor:
    """A function in a thread of its own that stops before each operation on the store."""

    def __init__(self, world: World, name: str, act: Callable[[ActorStore], None]) -> None:
        self.name = name
        self.history = hashlib.sha256(name.encode())
        self.is_over = False
        self.is_killed = False
        self.waits_since: int | None = None
        self.error: BaseException | None = None
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._act, self._store = act, ActorStore(world, self)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Run up to before the first operation."""
        self._thread.start()
        self._await()

    def step(self) -> None:
        """Carry out one operation, and run up to before the next."""
        self._go.release()
        self._await()

    def kill(self) -> None:
        """End it before its next operation."""
        self.is_killed = True
        while not self.is_over:
            self.step()

    def pause(self) -> None:
        """Called by the store in the actor's thread: wait for the turn."""
        if self.is_killed:
            raise Killed
        self._stopped.release()
        assert self._go.acquire(timeout=_TURN_TIMEOUT_S)
        if self.is_killed:
            raise Killed

    def _await(self) -> None:
        assert self._stopped.acquire(timeout=_TURN_TIMEOUT_S), f"{self.name} neither stopped nor ended"

    def _run(self) -> None:
        try:
            self._act(self._store)
        except Killed:
            pass
        except BaseException as error:  # the explorer raises it where it can be seen
            self.error = error
        self.is_over = True
        self._stopped.release()


class ActorStore(MemoryStore):
    """The world's store as one actor sees it: the same objects, and a turn for each operation. A listing is a turn for each kind of objects."""

    def __init__(self, world: World, actor: Actor) -> None:
        super().__init__(world.store.clock)
        self.objects, self._written = world.store.objects, world.store._written
        self._world, self._actor = world, actor

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        self._turn(key)
        self._world.version += not key.startswith(_PRIVATE)
        self._noted("put", lambda: super(ActorStore, self).put(key, source, if_absent=if_absent))

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        self._turn(key)
        return self._noted("get", lambda: super(ActorStore, self).get(key, start=start, size=size))

    def stat(self, key: str) -> ObjectInfo | None:
        self._turn(key)
        return self._noted("stat", lambda: super(ActorStore, self).stat(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for kind in ("artifacts/", "blobs/", "gc/", "leases/", "runs/", "stages/"):
            if kind.startswith(prefix) or prefix.startswith(kind):
                self._turn(kind)
                yield from self._noted(
                    "list", lambda kind=kind: [MemoryStore.stat(self, key) for key in sorted(self.objects) if _in(key, kind, prefix)]
                )

    def delete(self, *keys: str) -> None:
        for key in keys:
            self._turn(key)
            self._world.version += 1
            super().delete(key)

    def _turn(self, key: str) -> None:
        if not key.startswith(_PRIVATE):
            self._actor.pause()
        elif self._actor.is_killed:
            raise Killed

    def _noted(self, what: str, action: Callable[[], object]) -> object:
        try:
            answer: object = action()
        except FoundryError as error:
            self._actor.history.update(f"{what}:{type(error).__name__}".encode())
            raise
        self._actor.history.update(f"{what}:{answer!r}".encode())
        return answer


def _in(key: str, kind: str, prefix: str) -> bool:
    return key.startswith(kind) and key.startswith(prefix)


class PatientClock:
    """An actor's clock: to sleep is to wait until somebody else has written."""

    def __init__(self, world: World, actor_name: str) -> None:
        self._world, self._name = world, actor_name
        self._slept_s = 0.0

    def now_s(self) -> float:
        return self._world.now_s

    def monotonic_s(self) -> float:
        return self._slept_s

    def sleep(self, seconds: float) -> None:
        self._slept_s += seconds
        actor = next(one for one in self._world.actors if one.name == self._name)
        actor.waits_since = self._world.version
        actor.pause()
        actor.waits_since = None


@dataclass
class World:
    """A store, a time, and who uses it."""

    now_s: float = 1_000_000.0
    version: int = 0
    actors: list[Actor] = field(default_factory=list)
    store: MemoryStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = MemoryStore(PatientClock(self, ""))

    def add(self, name: str, act: Callable[[ActorStore], None]) -> None:
        self.actors.append(Actor(self, name, act))

    def can_act(self) -> list[Actor]:
        return [one for one in self.actors if not one.is_over and (one.waits_since is None or one.waits_since < self.version)]

    def state(self) -> bytes:
        """What the future depends on."""
        digest = hashlib.sha256()
        for key in sorted(self.store.objects):
            if not key.startswith("leases/"):
                digest.update(f"{key}@{self.store._written[key]}".encode() + self.store.objects[key])
        for actor in self.actors:
            waits = actor.waits_since is not None and actor.waits_since >= self.version
            digest.update(actor.history.digest() + bytes([actor.is_over, actor.is_killed, waits]))
        return digest.digest()


@dataclass(frozen=True)
class Explored:
    """How much was tried."""

    num_orders: int
    num_states: int


def explore(build: Callable[[], World], check: Callable[[World], None], *, mortal: Sequence[str] = (), max_orders: int = 1_000_000) -> Explored:
    """Try every order of the actors' operations.

    Args:
        build: Makes the world, the same every time.
        check: Asserts what must hold at the end of each order.
        mortal: Actors that may be killed, once each, before any of their operations.
        max_orders: More is an error: the instance is too large.
    """
    seen: set[bytes] = set()
    waiting: list[tuple[str, ...]] = [()]
    num_orders = 0
    while waiting:
        num_orders += 1
        assert num_orders <= max_orders, f"more than {max_orders} orders"
        waiting.extend(_run(build(), waiting.pop(), check, mortal, seen))
    return Explored(num_orders, len(seen))


def _run(world: World, prefix: tuple[str, ...], check: Callable[[World], None], mortal: Sequence[str], seen: set[bytes]) -> list[tuple[str, ...]]:
    """Follow a prefix, then the first choice at each step; returns the prefixes of the other choices."""
    branches: list[tuple[str, ...]] = []
    done: list[str] = []
    try:
        for actor in world.actors:
            actor.start()
        while True:
            choices = [one.name for one in world.can_act()]
            choices += [f"kill {name}" for name in mortal if name in choices and f"kill {name}" not in done]
            if len(done) < len(prefix):
                choice = prefix[len(done)]
            else:
                state = world.state()
                if state in seen:
                    return branches
                seen.add(state)
                if not choices:
                    break
                choice = choices[0]
                branches += [(*done, other) for other in choices[1:]]
            _do(world, choice)
            done.append(choice)
        stuck = [one.name for one in world.actors if not one.is_over]
        assert not stuck, f"{stuck} wait for ever after {done}"
        try:
            check(world)
        except BaseException as error:
            raise AssertionError(f"after {' > '.join(done)}: {error}") from error
        return branches
    finally:
        for actor in world.actors:
            actor.kill()


def _do(world: World, choice: str) -> None:
    actor = next(one for one in world.actors if one.name == choice.removeprefix("kill "))
    if choice.startswith("kill "):
        actor.kill()
        world.version += 1
    else:
        actor.step()
    if actor.error is not None:
        raise AssertionError(f"{actor.name} failed: {actor.error!r}") from actor.error
