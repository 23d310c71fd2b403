"""When checkpoints are made, and how a group ends that is asked to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import pytest
from torch import nn

from foundry_ray.config import CheckpointConfig
from foundry_ray.errors import Preempted, StoreDenied, StoreError, StoreUnavailable
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.training.control import CheckpointControl, best_epoch
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.loop import FitJob, Loop
from foundry_ray.training.preemption import Ask, Ear, answer, ask, ask_key, forget, is_announced
from foundry_ray.training.state import LoopState
from foundry_ray.types import Json

STEPS = 6  # of the job's epochs


class Writer:
    """Remembers what it was given; busy as long as it is told so."""

    def __init__(self) -> None:
        self.is_busy = False
        self.saved: list[tuple[int, int, bool]] = []
        self.num_waits = 0
        self.error: StoreError | None = None
        self.refusals = 0

    def save(self, step: int, epoch: int, state: LoopState, meta: Mapping[str, Json]) -> None:
        self.saved.append((step, epoch, bool(meta["ends_epoch"])))

    def wait(self) -> None:
        self.num_waits += 1
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable("no answer.", uri="s3://b")
        if self.error is not None:
            raise self.error

    def wait_for_part(self) -> None:
        self.wait()


@dataclasses.dataclass
class Rank:
    """Rank 0 of a small job, and what moves it: a clock that only a test turns, and what the driver asks."""

    control: CheckpointControl
    writer: Writer
    clock: FakeClock
    loop: Loop
    asked: Ask = Ask.NOTHING

    def beat(self, step: int) -> None:
        """A pulse after so many steps."""
        self.loop.step = step
        self.control.act(self.control.wishes(), self.loop)


@pytest.fixture
def begin(job: FitJob, make_model: Callable[[], nn.Module], clock: FakeClock, reporter: RecordingReporter) -> Callable[..., Rank]:
    def make(*, rank: int = 0, **config: object) -> Rank:
        writer = Writer()
        loop = Loop(job, TorchEngine(make_model(), job.train), reporter=reporter, clock=clock)
        control = CheckpointControl(
            CheckpointConfig.model_validate({"every_s": 60.0, **config}),
            writer,
            rank=rank,
            clock=clock,
            asked=lambda: made.asked,
            meta={"shape": "one"},
            metric="accuracy",
            steps_per_epoch=STEPS,
        )
        made = Rank(control, writer, clock, loop)
        return made

    return make


def test_time_makes_a_checkpoint_and_starts_anew(begin: Callable[..., Rank]) -> None:
    rank = begin()
    rank.clock.advance(59)
    rank.beat(1)
    rank.clock.advance(1)
    rank.beat(2)
    rank.beat(3)
    assert rank.writer.saved == [(2, 0, False)]


def test_only_the_first_ranks_clock_and_ear_count(begin: Callable[..., Rank]) -> None:
    rank = begin(rank=1)
    rank.asked = Ask.LEAVE
    rank.clock.advance(600)
    assert list(rank.control.wishes()) == [0.0, 0.0, 0.0]


def test_a_checkpoint_that_is_still_on_its_way_is_not_waited_for(begin: Callable[..., Rank]) -> None:
    rank = begin()
    rank.writer.is_busy = True
    rank.clock.advance(60)
    rank.beat(2)
    assert rank.writer.saved == []
    rank.writer.is_busy = False
    rank.beat(3)
    assert rank.writer.saved == [(3, 0, False)]


def test_a_multiple_of_steps_that_no_pulse_met_counts_at_the_next(begin: Callable[..., Rank]) -> None:
    rank = begin(every_steps=2)
    for step in (1, 3, 5):
        rank.beat(step)
    assert rank.writer.saved == [(3, 0, False), (5, 0, False)]


def test_right_before_an_epoch_is_judged_nothing_is_saved(begin: Callable[..., Rank]) -> None:
    rank = begin(every_steps=1)
    rank.beat(STEPS)
    assert rank.writer.saved == []


@pytest.mark.parametrize("what", [Ask.RESIZE, Ask.PREEMPTED, Ask.LEAVE])
def test_who_is_asked_to_stop_saves_at_once_and_waits_until_it_counts(begin: Callable[..., Rank], what: Ask) -> None:
    rank = begin()
    rank.asked, rank.writer.is_busy = what, True
    with pytest.raises(Preempted, match=answer(what).message):
        rank.beat(4)
    assert rank.writer.saved == [(4, 0, False)]
    assert rank.writer.num_waits == 1


def test_what_is_saved_already_is_not_saved_again_before_the_end(begin: Callable[..., Rank]) -> None:
    rank = begin()
    rank.control.begin(4)
    rank.asked = Ask.PREEMPTED
    with pytest.raises(Preempted):
        rank.beat(4)
    assert rank.writer.saved == []


def test_a_group_whose_last_checkpoint_is_refused_says_so(begin: Callable[..., Rank]) -> None:
    rank = begin()
    rank.asked, rank.writer.error = Ask.LEAVE, StoreUnavailable("no answer.", uri="s3://b")
    with pytest.raises(StoreUnavailable):
        rank.beat(4)


def _epoch(rank: Rank, accuracy: float) -> None:
    rank.loop.epoch, rank.loop.step = rank.loop.epoch + 1, (rank.loop.epoch + 1) * STEPS
    rank.loop.curve.append({"accuracy": accuracy, "val_loss": 1.0})
    rank.control.after_epoch(rank.loop, rank.loop._engine)


def test_a_better_epoch_and_the_last_one_are_saved(begin: Callable[..., Rank]) -> None:
    rank = begin()
    for accuracy in (0.5, 0.4, 0.6, 0.6):  # of the four epochs of the job
        _epoch(rank, accuracy)
    assert rank.writer.saved == [(6, 1, True), (18, 3, True), (24, 4, True)]


def test_an_epoch_that_is_not_better_is_saved_when_time_is_up(begin: Callable[..., Rank]) -> None:
    rank = begin()
    _epoch(rank, 0.5)
    rank.clock.advance(60)
    _epoch(rank, 0.4)
    assert rank.writer.saved == [(6, 1, True), (12, 2, True)]


def test_who_is_asked_at_the_end_of_an_epoch_stops_there_but_after_the_last_one_is_done(begin: Callable[..., Rank]) -> None:
    rank = begin()
    rank.asked = Ask.LEAVE
    with pytest.raises(Preempted):
        _epoch(rank, 0.5)
    assert rank.writer.saved == [(6, 1, True)]
    rank.loop.epoch = 3
    _epoch(rank, 0.4)
    assert rank.writer.saved[-1] == (24, 4, True)


def test_the_last_checkpoint_is_tried_until_the_store_takes_it(begin: Callable[..., Rank]) -> None:
    rank = begin()
    for accuracy in (0.5, 0.6, 0.7, 0.8):
        _epoch(rank, accuracy)
    rank.writer.refusals = 2
    rank.control.finish(rank.loop, rank.loop._engine)
    assert rank.writer.saved[-3:] == [(24, 4, True)] * 3
    assert rank.writer.num_waits == 3


def test_another_rank_waits_for_no_manifest_that_the_first_has_given_up(begin: Callable[..., Rank], monkeypatch: pytest.MonkeyPatch) -> None:
    rank = begin(rank=1)
    outcomes = iter([(1.0, 0.0), (0.0, 0.0), (0.0, 0.0)])  # rank 0 was refused; no weight is bad; it was taken

    def never() -> None:
        raise AssertionError("no manifest ever comes")

    monkeypatch.setattr(rank.writer, "wait", never)
    monkeypatch.setattr(rank.writer, "wait_for_part", lambda: None)
    monkeypatch.setattr(rank.loop._engine, "reduce", lambda values, mode: next(outcomes))
    rank.control.finish(rank.loop, rank.loop._engine)
    assert len(rank.writer.saved) == 1


@pytest.mark.parametrize("error", [StoreUnavailable("no answer.", uri="s3://b"), StoreDenied("no.", uri="s3://b")])
def test_a_store_that_takes_no_last_checkpoint_is_the_end(begin: Callable[..., Rank], error: StoreError) -> None:
    rank = begin(commit_timeout_s=60.0)
    rank.writer.error = error
    with pytest.raises(type(error)):
        rank.control.finish(rank.loop, rank.loop._engine)
    assert len(rank.writer.saved) == (12 if error.retryable else 0)


@pytest.mark.parametrize(
    ("curve", "best"),
    [
        ([(0.9, 0.1), (0.95, 0.3), (0.95, 0.2)], 3),
        ([(0.9, 0.1), (0.95, 0.2), (0.95, 0.2)], 2),
    ],
)
def test_the_best_epoch_is_the_most_accurate_then_the_lowest_loss_then_the_earliest(curve: Sequence[tuple[float, float]], best: int) -> None:
    assert best_epoch([{"accuracy": accuracy, "val_loss": loss} for accuracy, loss in curve], "accuracy") == best


def test_a_question_is_heard_as_the_most_urgent_until_it_is_forgotten(memory_store: MemoryStore) -> None:
    key = ask_key("checkpoints/k/progress.json", "mine")
    ear, other = Ear(memory_store, key), Ear(memory_store, ask_key("checkpoints/k/progress.json", "other"))
    ask(memory_store, key, Ask.PREEMPTED)
    ear.listen()
    ask(memory_store, key, Ask.RESIZE)
    ear.listen()
    other.listen()
    assert (ear.heard(), other.heard()) == (Ask.PREEMPTED, Ask.NOTHING)
    forget(memory_store, key)
    assert list(memory_store.objects) == []


def test_a_store_that_does_not_answer_asks_nothing(memory_store: MemoryStore) -> None:
    store = FailingStore(memory_store)
    ask(store, "k", Ask.LEAVE)
    ear = Ear(store, "k")
    store.fail("stat")
    ear.listen()
    assert ear.heard() is Ask.NOTHING
    ear.listen()
    assert ear.heard() is Ask.LEAVE


def test_only_the_end_of_a_node_of_the_group_concerns_it() -> None:
    assert is_announced({"a", "b"}, ("b", "c"))
    assert not is_announced({"a"}, ("b", "c"))
