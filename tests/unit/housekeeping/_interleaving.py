"""Every order in which a few actors can use a store.

An actor is a function of a store. What it does next is a function of the answers that it got so far, so it needs no thread: it is run from its
beginning with the answers that are known, and cut off at the operation that comes after them. Its next operation is remembered for these
answers. The explorer applies one operation of one actor at a time to a copy of the store, depth first. Two ways into an equal store with equal
answers have one future, which is explored once; the orders that lead through it are counted all the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from foundry_ray.errors import FoundryError
from foundry_ray.protocols import ObjectInfo
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.stores import MemoryStore

_PRIVATE = ("leases/", "gc/clock")  # nobody but the owner of the key looks at them, so that their place in the order changes nothing
_PAGES = ("artifacts/", "blobs/", ("gc/", "leases/", "runs/", "stages/"))  # of a listing of everything


class Cut(BaseException):
    """Ends an actor's function at the operation after its last answer. No handler of errors sees it, as none sees kill -9."""


@dataclass(frozen=True)
class Operation:
    """What an actor wants next."""

    verb: str
    key: str = ""
    prefixes: str | tuple[str, ...] = ""
    data: bytes = b""
    start: int = 0
    size: int | None = None
    if_absent: bool = False


@dataclass
class Node:
    """The answers that an actor got so far, and what it does after them: an operation, or the end."""

    answers: tuple[object, ...] = ()
    next: Operation | None = None
    error: BaseException | None = None
    children: dict[object, Node] = field(default_factory=dict)
    is_known: bool = False


class Script(MemoryStore):
    """A store that answers what is known and cuts the actor off at the first unknown operation."""

    def __init__(self, answers: Sequence[object]) -> None:
        super().__init__()
        self._answers = list(answers)
        self.next: Operation | None = None

    def ask(self, operation: Operation) -> object:
        """The next answer."""
        if not self._answers:
            self.next = self.next or operation
            raise Cut
        answer = self._answers.pop(0)
        if isinstance(answer, FoundryError):
            raise copy.copy(answer)
        return answer

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        self.ask(Operation("put", key, data=source if isinstance(source, bytes) else source.read_bytes(), if_absent=if_absent))

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        return self.ask(Operation("get", key, start=start, size=size))

    def stat(self, key: str) -> ObjectInfo | None:
        return self.ask(Operation("stat", key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for page in (prefix,) if prefix else _PAGES:
            yield from self.ask(Operation("list", prefix, prefixes=page))

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.ask(Operation("delete", key))


class PatientClock(FakeClock):
    """An actor's clock: to sleep is to wait until somebody has written."""

    def __init__(self, store: MemoryStore, now_s: float) -> None:
        super().__init__(now_s)
        self._store = store

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if isinstance(self._store, Script):
            self._store.ask(Operation("sleep"))


@dataclass
class Actor:
    """Someone who uses the store.

    Attributes:
        act: What it does, the same for the same answers.
        alone_writes: A prefix that nobody else writes under; its own reads there need no turn.
        is_mortal: It may be killed before any of its operations.
        is_slow: Others may take it for dead before any of its operations, and it goes on all the same.
        after_death_of: It begins only when this one was killed or taken for dead.
    """

    act: Callable[[Script], None]
    alone_writes: str = "~"
    is_mortal: bool = False
    is_slow: bool = False
    after_death_of: str = ""
    root: Node = field(default_factory=Node)

    def at(self, node: Node) -> Node:
        """The node with what comes next in it."""
        if not node.is_known:
            script = Script(node.answers)
            try:
                self.act(script)
            except Cut:
                node.next = script.next
            except BaseException as error:  # shown by the explorer
                node.error = error
            node.is_known = True
        return node


Objects = Mapping[str, tuple[bytes, float]]


@dataclass(frozen=True)
class State:
    """Where the world stands. `polled_at` counts the writes that a sleeper knows of."""

    objects: Objects
    nodes: Mapping[str, Node]
    dead: frozenset[str] = frozenset()
    given_up: frozenset[str] = frozenset()
    version: int = 0
    polled_at: Mapping[str, int] = field(default_factory=dict)


class World:
    """A store at a time, and those who are about to use it."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.clock = FakeClock(now_s)
        self.store = MemoryStore(self.clock)
        self.actors: dict[str, Actor] = {}


@dataclass(frozen=True)
class Explored:
    """How much was tried: orders of operations, and different states on their ways."""

    num_orders: int
    num_states: int


def explore(world: World, check: Callable[[MemoryStore, FakeClock], None], *, bury: Callable[[MemoryStore], None]) -> Explored:
    """Try every order.

    Args:
        world: What is there at the beginning.
        check: Asserts what must hold at the end of each order, and may go on with the store from there.
        bury: What others see once a holder of a lease is dead.
    """
    return _Explorer(world, check, bury).explore()


class _Explorer:
    def __init__(self, world: World, check: Callable[[MemoryStore, FakeClock], None], bury: Callable[[MemoryStore], None]) -> None:
        self._world, self._check, self._bury = world, check, bury
        self._orders: dict[tuple[object, ...], int] = {}
        self._contents: dict[frozenset[object], int] = {}
        self._checked: set[frozenset[object]] = set()

    def explore(self) -> Explored:
        store = self._world.store
        objects = {key: (data, store.stat(key).modified_at_s) for key, data in store.objects.items()}
        nodes = {name: actor.at(actor.root) for name, actor in self._world.actors.items()}
        start = State(objects, nodes, polled_at=dict.fromkeys(nodes, 0))
        for name in nodes:
            start = self._hurried(start, name)
        return Explored(self._visit(start, ()), len(self._orders))

    def _visit(self, state: State, path: tuple[str, ...]) -> int:
        key = self._key(state)
        if key not in self._orders:
            choices = list(self._choices(state))
            if not choices:
                self._end(state, path)
            self._orders[key] = sum(self._visit(self._after(state, choice), (*path, choice)) for choice in choices) or 1
        return self._orders[key]

    def _choices(self, state: State) -> Iterator[str]:
        for name, actor in self._world.actors.items():
            wanted = state.nodes[name].next
            is_born = not actor.after_death_of or actor.after_death_of in state.given_up
            is_awake = wanted is not None and (wanted.verb != "sleep" or state.polled_at[name] < state.version)
            if name not in state.dead and is_born and is_awake:
                yield name
                if actor.is_mortal:
                    yield f"kill {name}"
                if actor.is_slow and name not in state.given_up:
                    yield f"give up {name}"

    def _after(self, state: State, choice: str) -> State:
        name = choice.removeprefix("kill ").removeprefix("give up ")
        if choice != name:
            dead = state.dead | {name} if choice.startswith("kill ") else state.dead
            given_up = state.given_up | {name}
            return replace(state, objects=self._buried(state.objects), dead=dead, given_up=given_up, version=state.version + 1)
        return self._hurried(self._applied(state, name), name)

    def _hurried(self, state: State, name: str) -> State:
        """Go on to the next operation whose place in the order matters."""
        actor = self._world.actors[name]
        if actor.after_death_of and actor.after_death_of not in state.given_up:
            return state
        while (wanted := state.nodes[name].next) is not None and wanted.verb != "sleep":
            is_read = wanted.verb in ("get", "stat", "list")
            if not wanted.key.startswith((*_PRIVATE, actor.alone_writes) if is_read else _PRIVATE):
                break
            state = self._applied(state, name)
        error = state.nodes[name].error
        if error is not None:
            raise AssertionError(f"{name} failed: {error!r}") from error
        return state

    def _applied(self, state: State, name: str) -> State:
        node, wanted = state.nodes[name], state.nodes[name].next
        objects = dict(state.objects)
        answer = _perform(wanted, objects, self._world.clock.now_s())
        known = (type(answer).__name__, answer.message) if isinstance(answer, FoundryError) else answer
        child = node.children.setdefault(known, Node((*node.answers, answer)))
        version = state.version + (wanted.verb in ("put", "delete") and not wanted.key.startswith(_PRIVATE))
        polled_at = {**state.polled_at, name: version} if wanted.verb == "sleep" else state.polled_at
        nodes = {**state.nodes, name: self._world.actors[name].at(child)}
        return replace(state, objects=objects, nodes=nodes, version=version, polled_at=polled_at)

    def _buried(self, objects: Objects) -> Objects:
        store = self._store(objects)
        self._bury(store)
        return {key: (data, objects[key][1]) for key, data in store.objects.items()}

    def _end(self, state: State, path: tuple[str, ...]) -> None:
        stuck = [
            name
            for name, actor in self._world.actors.items()
            if state.nodes[name].next is not None and name not in state.dead and (not actor.after_death_of or actor.after_death_of in state.given_up)
        ]
        assert not stuck, f"{stuck} wait for ever after {' > '.join(path)}"
        content = _content(state.objects)
        if content in self._checked:
            return
        self._checked.add(content)
        try:
            store = self._store(state.objects)
            self._check(store, store.clock)
        except BaseException as error:
            raise AssertionError(f"after {' > '.join(path)}: {error!r}") from error

    def _store(self, objects: Objects) -> MemoryStore:
        clock = FakeClock(self._world.clock.now_s())
        store = MemoryStore(clock)
        for key, (data, written_s) in objects.items():
            store.clock = FakeClock(written_s)
            store.put(key, data)
        store.clock = clock
        return store

    def _key(self, state: State) -> tuple[object, ...]:
        content = self._contents.setdefault(_content(state.objects), len(self._contents))
        has_news = tuple(polled_at < state.version for polled_at in state.polled_at.values())
        return content, *map(id, state.nodes.values()), state.dead, state.given_up, has_news


def _content(objects: Objects) -> frozenset[object]:
    return frozenset(item for item in objects.items() if not item[0].startswith("leases/"))


def _perform(wanted: Operation, objects: dict[str, tuple[bytes, float]], now_s: float) -> object:
    """The answer of the store, which it changes."""
    if wanted.verb == "sleep":
        return None
    if wanted.verb == "list":
        return tuple(_info(key, objects) for key in sorted(objects) if key.startswith(wanted.prefixes))
    if wanted.verb == "stat":
        return _info(wanted.key, objects) if wanted.key in objects else None
    if wanted.verb == "delete":
        objects.pop(wanted.key, None)
        return None
    real = MemoryStore(FakeClock(now_s))
    real.objects = {key: data for key, (data, _) in objects.items() if key == wanted.key}
    try:
        if wanted.verb == "get":
            return real.get(wanted.key, start=wanted.start, size=wanted.size)
        real.put(wanted.key, wanted.data, if_absent=wanted.if_absent)
    except FoundryError as error:
        return error
    objects[wanted.key] = (wanted.data, now_s)
    return None


def _info(key: str, objects: Objects) -> ObjectInfo:
    return ObjectInfo(key=key, size_bytes=len(objects[key][0]), modified_at_s=objects[key][1])
