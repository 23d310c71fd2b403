"""What one trial does with a job: before it is trained, from rung to rung, and to its end."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch

from foundry_ray.compression import recipe_from_params
from foundry_ray.config import TrainConfig
from foundry_ray.errors import ArtifactCorrupt, BadRecord, RecipeInfeasible
from foundry_ray.protocols import RuntimeChoice
from foundry_ray.search import constraints, memory
from foundry_ray.search.events import Event, Job
from foundry_ray.search.trial import TrialContext, TrialRunner
from foundry_ray.search.trial.screening import dominance
from foundry_ray.search.trial.students import Student, Students
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import RecordedLatencyMeter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.testing.trials import PARAMS, tiny_runner
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.shape import Shape
from foundry_ray.types import CompressionRecipe, LatencyResult, Step, Trial

STEPS = 4  # of an epoch


def _job(**changes: object) -> Job:
    return replace(Job(number=0, params=PARAMS, seed=1, rung=0, from_epoch=0, to_epoch=1), **changes)  # type: ignore[arg-type]


def _run(runner: TrialRunner, job: Job) -> list[Event]:
    return list(runner(job))


class _Full:
    """Memory that is short in the steps of these numbers."""

    def __init__(self, *steps: int) -> None:
        self._steps = steps
        self.num_steps = 0

    def __call__(self) -> None:
        self.num_steps += 1
        if self.num_steps in self._steps:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


class _Ticking(FakeClock):
    """A second goes by from look to look."""

    def monotonic_s(self) -> float:
        self.advance(1.0)
        return super().monotonic_s()


def test_a_trial_measures_then_trains_then_keeps_its_state(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    events = _run(tiny_runner(trial_context, memory_store), _job(to_epoch=2))
    assert [event.kind for event in events] == ["prepared", "epoch", "epoch", "rung"]
    assert set(events[0].values) == {"num_params", "num_macs", "size_bytes", "latency_p50_ms", "latency_p95_ms"}
    assert events[0].device == "recorded"
    assert 0 <= events[-1].values["accuracy"] <= 1
    assert [point["epoch"] for point in events[-1].curve] == [1, 2]
    assert events[-1].checkpoint in memory_store.objects


def test_a_process_copies_nothing_of_what_trials_share(trial_context: TrialContext) -> None:
    from foundry_ray.search.trial.place import Arrays

    splits, logits_VNC = (trial_context.train, trial_context.val), trial_context.logits_VNC
    assert logits_VNC is not None
    shared = [array for split in splits for array in (split.inputs_N, split.labels_N)] + [logits_VNC]
    for array in shared:
        array.flags.writeable = False  # as it comes from an object store
    arrays = Arrays(trial_context)
    tensors = [arrays.train.inputs_N, arrays.train.labels_N, arrays.val.inputs_N, arrays.val.labels_N, arrays.logits_VNC]
    assert [tensor.data_ptr() for tensor in tensors if tensor is not None] == [array.ctypes.data for array in shared]


def test_a_trial_in_two_jobs_is_the_trial_in_one(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    whole = _run(tiny_runner(trial_context, memory_store), _job(to_epoch=3))[-1]
    first = _run(tiny_runner(trial_context, memory_store), _job(to_epoch=1))
    second = _run(tiny_runner(trial_context, memory_store), _job(from_epoch=1, to_epoch=3, checkpoint=first[-1].checkpoint, known=first[0].values))
    assert [event.kind for event in second] == ["epoch", "epoch", "rung"]
    assert second[-1].values == whole.values
    assert second[-1].checkpoint.rpartition("/")[0] == whole.checkpoint.rpartition("/")[0]  # type: ignore[union-attr]


def test_a_job_that_is_told_to_go_on_trains_on_in_place(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    steps: list[None] = []
    whole = _run(tiny_runner(trial_context, memory_store), _job(to_epoch=3))[-1]
    events = _run(tiny_runner(trial_context, memory_store, pause=lambda: steps.append(None)), _job(to_epoch=1, later=(3,)))
    assert [(event.kind, event.rung, event.epoch) for event in events[1:]] == [
        ("epoch", 0, 1),
        ("rung", 0, 1),
        ("epoch", 0, 2),
        ("epoch", 0, 3),
        ("rung", 1, 3),
    ]
    assert [point["epoch"] for point in events[-1].curve] == [2, 3]
    assert (events[-1].values, events[-1].checkpoint) == (whole.values, whole.checkpoint)
    assert len(steps) == 3 * STEPS


def test_a_job_that_is_dropped_at_a_rung_has_left_its_state(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    events = tiny_runner(trial_context, memory_store)(_job(to_epoch=1, later=(3,)))
    rung = next(event for event in events if event.kind == "rung")
    events.close()  # type: ignore[attr-defined]  # runners are generators
    assert rung.checkpoint in memory_store.objects


def test_a_measuring_job_measures_again_and_trains_nothing(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    steps: list[None] = []
    first = _run(tiny_runner(trial_context, memory_store), _job())
    slower = RecordedLatencyMeter(lambda onnx: 7.0)
    runner = tiny_runner(trial_context, memory_store, meter=slower, pause=lambda: steps.append(None))
    [event] = _run(runner, _job(from_epoch=1, to_epoch=1, checkpoint=first[-1].checkpoint, known=first[0].values))
    assert (event.kind, event.device, event.values["latency_p50_ms"]) == ("measured", "recorded", 7.0)
    assert event.values["size_bytes"] == first[0].values["size_bytes"]
    assert not steps


def test_a_trial_takes_over_anothers_weights(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = tiny_runner(trial_context, memory_store)
    donor = _run(runner, _job(to_epoch=1, later=(2,)))
    at_rung = next(event for event in donor if event.kind == "rung")
    taken = {"number": 5, "from_epoch": 1, "to_epoch": 2, "checkpoint": at_rung.checkpoint, "known": donor[0].values}
    same, other = (_run(runner, _job(**taken, params={**PARAMS, "lr": lr}))[-1] for lr in (PARAMS["lr"], 0.02))
    assert same.values == donor[-1].values
    assert other.values["val_loss"] != same.values["val_loss"]
    assert other.checkpoint is not None
    assert "/000005/" in other.checkpoint


@pytest.mark.parametrize(("text", "num_measured"), [("num_params <= 10", 0), ("size_bytes <= 10", 0), ("latency_p50_ms <= 0.00001", 1)])
def test_a_broken_constraint_ends_a_trial_before_its_first_step(
    trial_context: TrialContext, memory_store: MemoryStore, text: str, num_measured: int
) -> None:
    steps: list[None] = []
    meter = RecordedLatencyMeter()
    context = replace(trial_context, constraints=(constraints.parse(text, where="here"),))
    [event] = _run(tiny_runner(context, memory_store, meter=meter, pause=lambda: steps.append(None)), _job())
    assert event.kind == "infeasible"
    assert event.excess > 0
    assert text.split(" <= ")[0] in event.error
    assert (len(steps), meter.num_measured) == (0, num_measured)


def test_a_recipe_that_cannot_be_carried_out_is_infeasible(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    [event] = _run(tiny_runner(trial_context, memory_store), _job(params={**PARAMS, "width": 64}))
    assert (event.kind, event.excess) == ("infeasible", 1.0)
    assert event.error


TEACHER = {"num_params": 100.0, "num_macs": 1000.0, "size_bytes": 400.0, "latency_p50_ms": 1.0}


@pytest.mark.parametrize(
    ("values", "is_dominated"),
    [
        ({"num_params": 50.0}, True),
        ({"size_bytes": 200.0, "latency_p50_ms": 0.95}, True),
        ({"num_macs": 900.0, "latency_p50_ms": 1.4}, True),
        ({"num_params": 50.0, "latency_p50_ms": 0.9}, False),
        ({"latency_p50_ms": 1.4}, False),
    ],
)
def test_smaller_and_not_faster_in_steps_of_the_floor_is_dominated(values: dict[str, float], is_dominated: bool) -> None:
    reason = dominance({**TEACHER, **values}, TEACHER)
    assert bool(reason) is is_dominated
    assert not reason or f"latency_p50_ms is {values.get('latency_p50_ms', 1.0):g}, wanted less than the teacher's 1" in reason


def test_where_the_teacher_is_as_fast_as_can_be_told_nobody_is_dominated() -> None:
    fast = {**TEACHER, "latency_p50_ms": 0.1}
    assert dominance({**fast, "num_params": 50.0}, fast) == ""


def test_a_student_that_is_smaller_and_not_faster_is_not_trained(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    steps: list[None] = []
    context = replace(trial_context, objectives=("accuracy", "latency_p50_ms"))
    runner = tiny_runner(context, memory_store, meter=RecordedLatencyMeter(lambda onnx: 1.0), pause=lambda: steps.append(None))
    [event] = _run(runner, _job())
    assert event.kind == "dominated"
    assert "num_params" in event.error
    assert event.excess > 0
    assert event.values["latency_p50_ms"] == 1.0
    assert not steps


@pytest.mark.parametrize(
    ("factors", "kind", "wanted_ms"),
    [
        ({"openvino": 0.5}, "dominated", 10.0),  # the teacher is as fast, in that runtime
        ({"openvino": 3.0}, "dominated", 60.0),  # and in the default one it is faster
        ({"openvino": 0.5, "teacher": 3.0}, "prepared", 10.0),
    ],
)
def test_a_student_is_measured_in_its_runtime_and_must_beat_the_teacher_in_either(
    trial_context: TrialContext, memory_store: MemoryStore, factors: dict[str, float], kind: str, wanted_ms: float
) -> None:
    context = replace(trial_context, objectives=("accuracy", "latency_p50_ms"))
    slow = factors.get("teacher", 1.0)
    meter = RecordedLatencyMeter(lambda onnx: 20.0 * (slow if onnx == context.teacher_onnx else 1.0), factors=factors)
    [event, *_] = _run(tiny_runner(context, memory_store, meter=meter), _job(params={**PARAMS, "runtime": "openvino"}))
    assert (event.kind, event.values["latency_p50_ms"]) == (kind, wanted_ms)


def test_a_runtime_that_cannot_run_the_student_makes_it_infeasible(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    class Narrow(RecordedLatencyMeter):
        def measure(self, onnx: bytes, *, batch_size: int, runtime: RuntimeChoice | None = None) -> LatencyResult:
            if runtime and runtime.name == "openvino":
                raise BadRecord("openvino cannot load 7 bytes: no operator Foo", hint="export the model again.")
            return super().measure(onnx, batch_size=batch_size, runtime=runtime)

    [event] = _run(tiny_runner(trial_context, memory_store, meter=Narrow()), _job(params={**PARAMS, "runtime": "openvino"}))
    assert event.kind == "infeasible"
    assert "no operator Foo" in event.error


class _Shaky(RecordedLatencyMeter):
    """All takes a millisecond; the first measurements are noisy, and the meter keeps none."""

    def __init__(self, num_noisy: int) -> None:
        super().__init__(lambda onnx: 1.0)
        self._num_noisy = num_noisy

    def measure(self, onnx: bytes, *, batch_size: int, runtime: RuntimeChoice | None = None) -> LatencyResult:
        result = super().measure(onnx, batch_size=batch_size, runtime=runtime)
        return replace(result, is_noisy=self.num_measured <= self._num_noisy, ci_ms=(0.8, 1.2))


@pytest.mark.parametrize(("num_noisy", "kinds"), [(0, ["dominated", "dominated"]), (1, ["prepared", "dominated"]), (2, ["prepared", "prepared"])])
def test_nobody_is_dominated_by_noise_and_it_is_told(
    trial_context: TrialContext, memory_store: MemoryStore, num_noisy: int, kinds: list[str]
) -> None:
    reporter = RecordingReporter()
    context = replace(trial_context, objectives=("accuracy", "latency_p50_ms"))
    runner = tiny_runner(context, memory_store, meter=_Shaky(num_noisy), reporter=reporter)
    assert [next(runner(_job(number=number))).kind for number in range(2)] == kinds
    assert len(reporter.warnings) == num_noisy
    assert all("is noisy: its median lies in 0.800-1.200 ms although it was measured twice" in warning for warning in reporter.warnings)


def test_a_teacher_whose_latency_was_noisy_is_measured_again(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    reporter = RecordingReporter()

    class ShakyTeacher(_Shaky):
        def measure(self, onnx: bytes, *, batch_size: int, runtime: RuntimeChoice | None = None) -> LatencyResult:
            return replace(super().measure(onnx, batch_size=batch_size, runtime=runtime), is_noisy=self.num_measured == 2)

    context = replace(trial_context, objectives=("accuracy", "latency_p50_ms"))
    runner = tiny_runner(context, memory_store, meter=ShakyTeacher(0), reporter=reporter)
    assert [next(runner(_job(number=number))).kind for number in range(2)] == ["prepared", "dominated"]
    assert "the latency of the teacher is noisy" in reporter.warnings[0]


def test_where_latency_is_not_wanted_the_teacher_is_not_measured(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    meter = RecordedLatencyMeter(lambda onnx: 1.0)
    assert _run(tiny_runner(trial_context, memory_store, meter=meter), _job())[0].kind == "prepared"
    assert meter.num_measured == 1


@pytest.mark.parametrize("params", [{"sparsify.ratio": 0.5}, {"sparsify.ratio": 0.5, "sparsify.schedule": "one_shot"}])
def test_a_student_with_zeros_costs_what_its_teacher_does_and_is_not_rejected_for_it(
    trial_context: TrialContext, memory_store: MemoryStore, params: dict[str, float | str]
) -> None:
    context = replace(trial_context, objectives=("accuracy", "latency_p50_ms"))
    runner = tiny_runner(context, memory_store, meter=RecordedLatencyMeter(lambda onnx: 1.0))
    asked = {"lr": 0.01, "sparsify.whole_ends": False, **params}
    event = next(runner(_job(params=asked)))
    assert event.kind == "prepared"
    assert {name: event.values[name] for name in ("num_params", "num_macs", "size_bytes")} == dict(context.teacher_cost)


def test_the_teacher_is_measured_once(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    meter = RecordedLatencyMeter(lambda onnx: float(len(onnx)))
    runner = tiny_runner(replace(trial_context, objectives=("latency_p50_ms",)), memory_store, meter=meter)
    assert [_run(runner, _job(number=number))[0].kind for number in range(2)] == ["prepared", "prepared"]
    assert meter.num_measured == 3


def test_a_loss_that_is_no_number_fails_the_trial(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    context = replace(trial_context, logits_VNC=trial_context.logits_VNC * float("nan"))  # type: ignore[operator]
    event = _run(tiny_runner(context, memory_store), _job())[-1]
    assert event.kind == "failed"
    assert "wanted a finite number" in event.error


def test_an_optimizer_that_is_not_there_fails_the_trial_and_not_its_process(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    event = _run(tiny_runner(trial_context, memory_store), _job(params={**PARAMS, "optimizer": "import:nowhere.to:be_found"}))[-1]
    assert event.kind == "failed"
    assert "there is no module 'nowhere'" in event.error


def test_a_trial_under_a_budget_of_accuracy_keeps_the_layers_that_were_settled_before_it(
    trial_context: TrialContext, memory_store: MemoryStore
) -> None:
    params = {**PARAMS, "weight_bits": 8, "quantize.accuracy_budget": 0.0}
    students = Students(trial_context)
    [settled, again] = [students.make(params, 1).recipe.step("quantize") for _ in range(2)]
    assert settled == again
    assert settled is not None
    assert "accuracy_budget" not in settled.params
    events = _run(tiny_runner(trial_context, memory_store), _job(params=params))
    named = {**PARAMS, "weight_bits": 8, **{f"quantize.{name}": value for name, value in settled.params.items() if name == "keep"}}
    assert events[0].effective == next(tiny_runner(trial_context, memory_store)(_job(params=named))).effective
    finished = tiny_runner(trial_context, memory_store).finish(
        Trial(trial_id="0", number=0, params=params, recipe=CompressionRecipe(), seed=1), prefix="finished"
    )
    assert finished.recipe is not None
    assert finished.recipe.step("quantize") == settled


def test_equal_trials_have_equal_hashes_and_others_do_not(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = tiny_runner(trial_context, memory_store)
    hashes = [next(runner(_job(params={**PARAMS, **change}))).effective for change in ({}, {"prune_ratio": 0.301}, {"lr": 0.02}, {"weight_bits": 32})]
    assert hashes[0] == hashes[1], "0.300 and 0.301 of a few channels round to the same student"
    assert len(set(hashes)) == 3


def test_a_slot_that_is_small_takes_the_same_batch_in_smaller_passes(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    reporter = RecordingReporter()
    whole = _run(tiny_runner(trial_context, memory_store), _job())
    tight = _run(tiny_runner(trial_context, memory_store, reporter=reporter, room_bytes=_room(trial_context, rows=4)), _job())
    assert [event.kind for event in tight] == ["prepared", "epoch", "rung"]
    assert "trial 0 trains in passes of 4 rows, the same batch of 16" in reporter.warnings[0]
    assert tight[0].effective == whole[0].effective
    assert tight[-1].values["loss"] == pytest.approx(whole[-1].values["loss"], rel=0.5)


def test_a_teacher_that_answers_in_the_step_takes_its_part_of_the_slot(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    reporter, alone = RecordingReporter(), {**PARAMS, "distil_alpha": 0.0}
    room_bytes = _room(trial_context, rows=16)
    for params in (alone, {**alone, "distil_alpha": 0.5, "distil.source": "online"}):
        _run(tiny_runner(trial_context, memory_store, reporter=reporter, room_bytes=room_bytes), _job(params=params))
    [warning] = reporter.warnings
    assert "trial 0 trains in passes of " in warning


def _room(context: TrialContext, *, rows: int) -> int:
    """What fits so many rows of the default student."""

    student = Students(context).make(PARAMS, 1)
    taken = memory.footprint(student.model, student.train, context.schema.shape, device="cpu")
    assert taken is not None
    return int(memory.PROCESS_RATIO * taken.bytes_of(rows)) + 1


def test_a_student_of_which_not_one_row_fits_is_infeasible_with_numbers(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    meter = RecordedLatencyMeter()
    [event] = _run(tiny_runner(trial_context, memory_store, meter=meter, room_bytes=50_000), _job())
    assert (event.kind, meter.num_measured) == ("infeasible", 0)
    assert "MB with 1 row in a pass, wanted at most the 0.1 MB of its slot" in event.error


def test_where_memory_runs_out_a_trial_goes_on_from_its_last_rung_in_smaller_passes(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    reporter, full = RecordingReporter(), _Full(2 * STEPS + 2)  # in the third epoch: those of the second rung are the second and third
    events = _run(tiny_runner(trial_context, memory_store, reporter=reporter, pause=full), _job(to_epoch=1, later=(3,)))
    assert [(event.kind, event.epoch) for event in events[1:]] == [("epoch", 1), ("rung", 1), ("epoch", 2), ("epoch", 3), ("rung", 3)]
    assert reporter.warnings == [
        "trial 0 was out of memory with 16 rows in a pass; it goes on from epoch 1 with 8, the same batch of 16.",
    ]
    assert full.num_steps == 2 * STEPS + 2 + 2 * STEPS


def test_where_memory_runs_out_what_was_trained_is_let_go_before_it_is_made_anew(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    from foundry_ray.search.trial.context import Phases
    from foundry_ray.search.trial.place import Arrays, Place
    from foundry_ray.search.trial.training import Training, Work

    students, was_there = Students(trial_context), []

    def make() -> Student:
        was_there.append(before() is not None)
        return students.make(PARAMS, 1)

    clock = FakeClock()
    place = Place(
        context=trial_context,
        arrays=Arrays(trial_context),
        store=memory_store,
        clock=clock,
        reporter=RecordingReporter(),
        device="cpu",
        between_steps=_Full(2),
        room_bytes=None,
        phases=Phases(clock),
    )
    shape = Shape(num_workers=1, micro_batch_size=16, accumulation=1, zero_stage=0)
    work = Work(number=0, params=PARAMS, seed=1, make=make, shape=shape, prefix="p", checkpoint=None)
    training = Training(work, students.make(PARAMS, 1), place)
    before = weakref.ref(training.loop)
    training.run_epoch()
    assert was_there == [False]


@pytest.mark.parametrize(("num_halvings", "rows"), [(1, 8), (3, 2), (9, 1)])
def test_a_trial_whose_process_was_ended_for_memory_comes_back_in_smaller_passes(
    trial_context: TrialContext, memory_store: MemoryStore, monkeypatch: pytest.MonkeyPatch, num_halvings: int, rows: int
) -> None:
    reporter, passes, forward = RecordingReporter(), list[int](), TorchEngine.forward

    def counted(engine: TorchEngine, inputs_B: torch.Tensor) -> torch.Tensor:
        passes.append(len(inputs_B))
        return forward(engine, inputs_B)

    monkeypatch.setattr(TorchEngine, "forward", counted)
    events = _run(tiny_runner(trial_context, memory_store, reporter=reporter), _job(num_halvings=num_halvings))
    assert [event.kind for event in events] == ["prepared", "epoch", "rung"]
    assert set(passes) == {rows}
    assert reporter.warnings == [
        f"trial 0 was ended because its node had no memory left; it goes on in passes of {rows} rows, the same batch of 16.",
    ]


def test_where_memory_runs_out_with_one_row_a_trial_has_failed(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    reporter = RecordingReporter()
    events = _run(tiny_runner(trial_context, memory_store, reporter=reporter, pause=_Full(*range(99))), _job())
    assert [event.kind for event in events] == ["prepared", "failed"]
    assert "trial 0 was out of memory with 1 row in a pass, wanted room for one: CUDA out of memory" in events[-1].error
    assert len(reporter.warnings) == 4, "16, 8, 4, 2"


def test_other_errors_of_torch_are_none_of_memory(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    def broken() -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        _run(tiny_runner(trial_context, memory_store, pause=broken), _job())


def test_a_trial_is_not_charged_for_waiting(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    clock = FakeClock()
    runner = tiny_runner(trial_context, memory_store, clock=clock, pause=lambda: clock.advance(10.0))
    events = _run(runner, _job())
    assert runner.seconds["waiting"] == 10.0 * STEPS
    assert [event.duration_s for event in events] == [0.0, 0.0, 0.0]


def test_each_second_of_a_trial_belongs_to_one_phase(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = tiny_runner(trial_context, memory_store, clock=_Ticking(), room_bytes=10**9)
    events = _run(runner, _job())
    phases = {"reset", "build", "memory", "count", "export", "latency", "engine", "restore", "training", "calibrate", "waiting", "save"}
    assert set(runner.seconds) == phases
    assert sum(event.duration_s for event in events) == sum(runner.seconds.values()) - runner.seconds["waiting"]


def test_a_checkpoint_that_changed_is_refused(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = tiny_runner(trial_context, memory_store)
    done = _run(runner, _job())
    assert done[-1].checkpoint is not None
    memory_store.objects[done[-1].checkpoint] += b"x"
    with pytest.raises(ArtifactCorrupt, match=r"has the hash.*--fresh search"):
        _run(runner, _job(from_epoch=1, to_epoch=2, checkpoint=done[-1].checkpoint, known=done[0].values))


def test_a_students_checkpoint_that_changed_names_the_stage_that_forgets_it(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = tiny_runner(trial_context, memory_store)
    memory_store.put("checkpoints/k/000003-0000.pt", b"x")
    with pytest.raises(ArtifactCorrupt, match=r"has the hash.*--fresh student"):
        runner.finish(_trial(runner), prefix="checkpoints/k")


def _trial(runner: TrialRunner, *, epochs: int = 2) -> Trial:
    event = _run(runner, _job(to_epoch=epochs))[-1]
    recipe = CompressionRecipe(steps=(Step(kind="quantize", params={"bits": 8}),))
    return Trial(trial_id="t", number=0, params=PARAMS, recipe=recipe, resource_used=epochs, curve=event.curve, checkpoint=event.checkpoint, seed=1)


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_a_trial_goes_on_from_the_rung_that_it_reached(trial_context: TrialContext, memory_store: MemoryStore, epochs: int) -> None:
    runner = tiny_runner(trial_context, memory_store)
    whole = _run(runner, _job(to_epoch=4))[-1]
    student = runner.finish(_trial(runner, epochs=epochs), prefix="checkpoints/student")
    assert [point["epoch"] for point in student.curve] == [1, 2, 3, 4]
    assert student.val_metrics["accuracy"] == whole.values["accuracy"]
    assert student.curve[-1]["val_loss"] == whole.curve[-1]["val_loss"]


def test_a_finish_that_was_killed_resumes_from_its_own_checkpoint(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = tiny_runner(trial_context, memory_store)
    trial = _trial(runner)
    expected = runner.finish(trial, prefix="checkpoints/student").curve
    kept = sorted(key for key in memory_store.objects if key.startswith("checkpoints/student/"))
    assert len(kept) == 2
    memory_store.delete(kept[-1])
    again = runner.finish(replace(trial, checkpoint="gone"), prefix="checkpoints/student")
    assert [dict(point) for point in again.curve] == [dict(point) for point in expected]


def test_a_finish_that_runs_out_of_memory_goes_on_from_the_last_epoch(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    reporter, full = RecordingReporter(), _Full(2)
    trial = _trial(tiny_runner(trial_context, memory_store))
    student = tiny_runner(trial_context, memory_store, reporter=reporter, pause=full).finish(trial, prefix="checkpoints/student")
    assert [point["epoch"] for point in student.curve] == [1, 2, 3, 4]
    assert "it goes on from epoch 2 with 8" in reporter.warnings[0]
    assert [step for step, _ in reporter.reports] == [3, 4]


def test_a_student_that_does_not_fit_cannot_be_finished(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    trial = _trial(tiny_runner(trial_context, memory_store))
    with pytest.raises(RecipeInfeasible, match=r"wanted at most the 0.1 MB of its slot.*search\.trial\.cpus"):
        tiny_runner(trial_context, memory_store, room_bytes=50_000).finish(trial, prefix="checkpoints/student")


def test_a_trial_whose_checkpoint_was_collected_trains_again_and_tells_only_what_is_new(
    trial_context: TrialContext, memory_store: MemoryStore
) -> None:
    runner = tiny_runner(trial_context, memory_store)
    first = _run(runner, _job(to_epoch=2))
    going_on = _job(from_epoch=2, to_epoch=4, checkpoint=first[-1].checkpoint, known=first[0].values)
    kept = _run(runner, going_on)
    memory_store.delete(str(first[-1].checkpoint))
    again = _run(runner, going_on)
    assert [event.epoch for event in again if event.kind == "epoch"] == [3, 4]
    assert [dict(point) for point in again[-1].curve] == [dict(point) for point in kept[-1].curve]


def test_the_chosen_trial_is_finished_although_its_checkpoint_was_collected(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = tiny_runner(trial_context, memory_store)
    trial = _trial(runner)
    expected = runner.finish(trial, prefix="checkpoints/one").curve
    again = runner.finish(replace(trial, checkpoint="studies/s/trials/000000/000002-gone.pt"), prefix="checkpoints/two")
    assert [dict(point) for point in again.curve] == [dict(point) for point in expected]


ACTING = {
    "sparsify.ratio": 0.5,
    "sparsify.end": 0.5,
    "sparsify.whole_ends": False,
    "distil.kind": "features",
    "weight_bits": 32,
}


def test_a_trial_whose_teacher_is_at_hand_needs_no_cached_answers_and_resumes_bit_for_bit(
    trial_context: TrialContext, memory_store: MemoryStore
) -> None:
    context, params = replace(trial_context, logits_VNC=None), {**PARAMS, **ACTING}
    whole = _run(tiny_runner(context, memory_store), _job(params=params, to_epoch=3))[-1]
    first = _run(tiny_runner(context, memory_store), _job(params=params, to_epoch=1))
    again = _job(params=params, from_epoch=1, to_epoch=3, checkpoint=first[-1].checkpoint, known=first[0].values)
    assert _run(tiny_runner(context, memory_store), again)[-1].values == whole.values
    assert _run(tiny_runner(context, memory_store), again)[-1].checkpoint == whole.checkpoint  # named by the hash of all tensors
    plain = _run(tiny_runner(trial_context, memory_store), _job(params={**PARAMS, "weight_bits": 32}, to_epoch=3))[-1]
    assert plain.values != whole.values


def test_what_is_finished_has_the_zeros_and_nothing_of_the_regressors(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    params = {**PARAMS, **ACTING}
    recipe = recipe_from_params(params)[1]
    trial = Trial(trial_id="0", number=0, params=params, recipe=recipe, seed=1)
    student = tiny_runner(replace(trial_context, logits_VNC=None), memory_store).finish(trial, prefix="checkpoints/k").model
    before = Students(trial_context).make(params, 1).model
    assert {name: tensor.shape for name, tensor in student.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.state_dict().items()
    }
    matrices = [param for param in student.parameters() if param.ndim > 1]
    assert sum(int((param == 0).sum()) for param in matrices) == pytest.approx(0.5 * sum(param.numel() for param in matrices), rel=0.02)


@pytest.mark.parametrize("other", [{"sparsify.ratio": 0.6}, {"sparsify.end": 0.6}, {"distil.kind": "attention"}, {"distil.beta": 2.0}])
def test_students_that_train_otherwise_are_no_repetitions(trial_context: TrialContext, other: dict[str, object]) -> None:
    students = Students(trial_context)
    params = {**PARAMS, **ACTING}
    assert students.make(params, 1).identity == students.make(dict(reversed(params.items())), 1).identity
    assert students.make({**params, **other}, 1).identity != students.make(params, 1).identity


def test_students_of_equal_shapes_that_keep_other_channels_are_no_repetitions(trial_context: TrialContext) -> None:
    students = Students(trial_context)
    whole = {name: value for name, value in PARAMS.items() if name not in ("width", "depth", "prune_ratio")}
    shrunk = students.make({**whole, "width": 4, "depth": 1}, 1)
    pruned = students.make({**whole, "prune_ratio": 0.5, "prune.scope": "group", "prune.round_to": 1}, 1)
    shapes = [{name: tensor.shape for name, tensor in student.model.state_dict().items()} for student in (shrunk, pruned)]
    assert shapes[0] == shapes[1]
    assert shrunk.identity != pruned.identity


def test_steps_of_other_packages_make_other_students() -> None:
    """What they do in training shows in no shape."""
    model = torch.nn.Linear(2, 2)

    def identity(**params: float) -> str:
        recipe = CompressionRecipe(steps=(Step(kind="dithered", params=params),))
        return Student(model=model, train=TrainConfig(), recipe=recipe, seed=0).identity

    assert identity(noise=0.1) == identity(noise=0.1) != identity(noise=0.2)
