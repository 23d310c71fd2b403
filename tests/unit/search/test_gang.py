"""Trials that several workers train: what the process that starts them does, with a group that is played by one worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.distributed

from foundry_ray.errors import Diverged, WorkerGroupFailed
from foundry_ray.search.events import Event, Job
from foundry_ray.search.trial import TrialContext, TrialRunner
from foundry_ray.search.trial.context import Phases
from foundry_ray.search.trial.gang import Stretch, Told, tell, tell_warning
from foundry_ray.search.trial.place import Arrays, Place
from foundry_ray.search.trial.rank import gathered, spread
from foundry_ray.search.trial.students import Students
from foundry_ray.search.trial.training import Training, Work
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import RecordedLatencyMeter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.testing.trials import PARAMS, tiny_runner
from foundry_ray.training.checkpoint.bytes import to_bytes
from foundry_ray.training.failures import FailureKind, RankFailure

FP32 = {**PARAMS, "weight_bits": 32}


@dataclass
class OneWorkerGang:
    """Trains alone what two workers would, and tells it as they do, with nonsense for what only int8 would show."""

    context: TrialContext
    store: MemoryStore
    failures: list[RankFailure] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    num_workers: int = 2
    says: str = ""

    def train(self, stretch: Stretch) -> tuple[RankFailure, ...]:
        if self.says:
            tell_warning(self.store, stretch, self.says)
            tell_warning(self.store, stretch, self.says)  # the other rank
        self.shapes.append(str(stretch.shape))
        if self.failures:
            return (self.failures.pop(0),)
        place, students = _place(self.context, self.store), Students(self.context)
        student = students.make(stretch.params, stretch.seed)
        shape = replace(stretch.shape, num_workers=1, micro_batch_size=16, accumulation=1)
        work = Work(
            number=0,
            params=stretch.params,
            seed=stretch.seed,
            make=lambda: student,
            shape=shape,
            prefix=stretch.prefix,
            checkpoint=stretch.checkpoint,
        )
        training = Training(work, student, place)
        for _ in training.to(stretch.to_epoch):
            [row] = training.rows(after=training.epoch - 1)
            is_last = training.epoch == stretch.to_epoch
            row = {**row, "accuracy": -1.0} if student.recipe.step("quantize") else row
            tell(self.store, stretch, Told(row=row, checkpoint=training.save() if is_last else None))
        return ()


def _place(context: TrialContext, store: MemoryStore) -> Place:
    clock = FakeClock()
    return Place(
        context=context,
        arrays=Arrays(context),
        store=store,
        clock=clock,
        reporter=RecordingReporter(),
        device="cpu",
        between_steps=lambda: None,
        room_bytes=None,
        phases=Phases(clock),
    )


def _runner(gang: OneWorkerGang, reporter: RecordingReporter | None = None) -> TrialRunner:
    return TrialRunner(
        gang.context, store=gang.store, meter=RecordedLatencyMeter(), clock=FakeClock(), reporter=reporter or RecordingReporter(), gang=gang
    )


def _job(**changes: object) -> Job:
    return replace(Job(number=0, params=FP32, seed=1, rung=0, from_epoch=0, to_epoch=1, later=(3,)), **changes)  # type: ignore[arg-type]


def _alone(context: TrialContext, job: Job) -> list[Event]:
    return list(tiny_runner(context, MemoryStore())(job))


@pytest.mark.parametrize("params", [FP32, PARAMS])
def test_a_trial_of_many_tells_what_a_trial_of_one_tells(trial_context: TrialContext, memory_store: MemoryStore, params: dict[str, object]) -> None:
    alone = _alone(trial_context, _job(params=params))
    events = list(_runner(OneWorkerGang(trial_context, memory_store))(_job(params=params)))
    assert [(event.kind, event.rung, event.epoch) for event in events] == [(event.kind, event.rung, event.epoch) for event in alone]
    at_rungs = [dict(event.values) for event in events if event.kind == "rung"]
    assert at_rungs == [dict(event.values) for event in alone if event.kind == "rung"]


def test_what_a_group_told_is_not_kept_and_each_rung_leaves_one_state(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    events = list(_runner(OneWorkerGang(trial_context, memory_store))(_job(params=PARAMS)))
    states = [event.checkpoint for event in events if event.kind == "rung"]
    assert sorted(memory_store.objects) == sorted(map(str, states))


def test_a_trial_of_many_is_continued_and_finished_by_one(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    events = list(_runner(OneWorkerGang(trial_context, memory_store))(_job(later=())))
    going_on = _job(from_epoch=1, to_epoch=3, later=(), checkpoint=events[-1].checkpoint, known=events[0].values)
    expected = _alone(trial_context, _job())[-1]
    assert list(tiny_runner(trial_context, memory_store)(going_on))[-1].values == expected.values


def test_where_a_rank_has_no_memory_the_group_takes_smaller_passes(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    full = RankFailure(rank=1, kind=FailureKind.CRASHED, text="torch.OutOfMemoryError: CUDA out of memory.")
    gang, reporter = OneWorkerGang(trial_context, memory_store, failures=[full]), RecordingReporter()
    events = list(_runner(gang, reporter)(_job(later=())))
    assert events[-1].kind == "rung"
    assert gang.shapes == ["2 workers x 8 samples x 1 passes, ZeRO 0", "2 workers x 4 samples x 2 passes, ZeRO 0"]
    assert "trial 0 was out of memory with 2 workers x 8 samples" in reporter.warnings[0]


def test_where_a_rank_dies_the_process_is_given_up_and_the_trial_is_not(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    dead = RankFailure(rank=1, kind=FailureKind.DIED, text="ActorDiedError: the worker died")
    with pytest.raises(WorkerGroupFailed, match="trial 0 lost a worker: rank 1 died: ActorDiedError"):
        list(_runner(OneWorkerGang(trial_context, memory_store, failures=[dead]))(_job()))


def test_where_a_group_has_no_room_the_trial_waits_and_says_so_once(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    text = "Ray Train's controller: WorkerGroupStartupTimeoutError: The worker group startup timed out after 60 seconds."
    no_room = RankFailure(rank=-1, kind=FailureKind.NOT_STARTED, text=text)
    gang, reporter = OneWorkerGang(trial_context, memory_store, failures=[no_room] * 4), RecordingReporter()
    events = list(_runner(gang, reporter)(_job(later=())))
    assert [event.kind for event in events] == ["prepared", "epoch", "rung"]
    assert reporter.warnings == [f"trial 0 waits for room for its 2 workers: {text}"]


def test_what_ranks_warn_of_comes_out_once(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    reporter = RecordingReporter()
    events = list(_runner(OneWorkerGang(trial_context, memory_store, says="it is cold"), reporter)(_job(later=())))
    assert reporter.warnings == ["trial 0: it is cold"]
    assert sorted(memory_store.objects) == [str(events[-1].checkpoint)]


def test_a_loss_that_is_no_number_fails_a_trial_of_many(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    diverged = Diverged("the loss at step 3 is nan, wanted a finite number.", step=3)
    failed = RankFailure(rank=0, kind=FailureKind.RAISED, text=str(diverged), error=diverged)
    events = list(_runner(OneWorkerGang(trial_context, memory_store, failures=[failed]))(_job()))
    assert (events[-1].kind, events[-1].error) == ("failed", diverged.message)


def test_a_batch_that_workers_cannot_share_is_infeasible(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    [event] = _runner(OneWorkerGang(trial_context, memory_store, num_workers=3))(_job())
    assert event.kind == "infeasible"
    assert "a batch of 16 rows, wanted a multiple of the 3 workers of `search.trial.workers`" in event.error


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_a_state_that_is_gathered_and_spread_is_the_same(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    student = Students(trial_context).make(FP32, 1)
    work = Work(
        number=0,
        params=FP32,
        seed=1,
        make=lambda: Students(trial_context).make(FP32, 1),
        shape=_shape(),
        prefix="p",
        checkpoint=None,
    )
    trained, fresh = (Training(work, one, _place(trial_context, memory_store)) for one in (student, work.make()))
    trained.run_epoch()
    whole = gathered(trained.loop.state())
    assert whole is not None
    data = to_bytes(trained.loop.state())
    assert to_bytes(whole) == data
    state = fresh.loop.state()
    assert spread(data, state)["epoch"] == 1
    pairs = zip(trained.loop.state().fragments, state.fragments, strict=True)
    assert all(torch.equal(one.tensor, other.tensor) for one, other in pairs)
    assert all(torch.equal(tensor, state.own[name]) for name, tensor in trained.loop.state().own.items())


def _shape() -> object:
    from foundry_ray.training.shape import Shape

    return Shape(num_workers=1, micro_batch_size=16, accumulation=1, zero_stage=0)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"sparsify.ratio": 0.5}, "sparsify needs masks of whole tensors"),
        ({"distil.source": "online"}, "distil needs a teacher in the step"),
        ({"distil.kind": "attention"}, "distil needs a teacher in the step"),
        ({"distil.kind": "self"}, "distil needs a teacher in the step"),
    ],
)
def test_what_one_process_must_do_is_refused_before_a_group_trains_it(
    trial_context: TrialContext, memory_store: MemoryStore, more: dict[str, object], what: str
) -> None:
    gang = OneWorkerGang(trial_context, memory_store)
    [event] = list(_runner(gang)(_job(params={**FP32, **more})))
    assert event.kind == "infeasible"
    assert event.error == f"recipe step {what}, which one process does, but 2 workers train a trial."
    assert not gang.shapes
    assert _alone(trial_context, _job(params={**FP32, **more}, later=()))[-1].kind == "rung"
