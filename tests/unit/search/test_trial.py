from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.search import constraints
from foundry_ray.search.events import Event, Job
from foundry_ray.search.trial import TrialContext, TrialRunner
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import RecordedLatencyMeter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import CompressionRecipe, Scalar, Step, Trial

PARAMS: dict[str, Scalar] = {"lr": 0.01, "width": 4, "depth": 1, "prune_ratio": 0.3, "weight_bits": 8, "distil_alpha": 0.5, "distil_temperature": 2.0}


def _runner(
    context: TrialContext, store: MemoryStore, meter: RecordedLatencyMeter | None = None, pause: Callable[[], None] | None = None
) -> TrialRunner:
    meter = meter or RecordedLatencyMeter()
    reporter = RecordingReporter()
    return TrialRunner(context, store=store, meter=meter, clock=FakeClock(), reporter=reporter, between_steps=pause or (lambda: None))


def _job(**changes: object) -> Job:
    return replace(Job(number=0, params=PARAMS, seed=1, rung=0, from_epoch=0, to_epoch=1), **changes)  # type: ignore[arg-type]


def _run(runner: TrialRunner, job: Job) -> list[Event]:
    return list(runner(job))


def test_a_trial_measures_then_trains_then_keeps_its_state(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    events = _run(_runner(trial_context, memory_store), _job(to_epoch=2))
    assert [event.kind for event in events] == ["prepared", "epoch", "epoch", "rung"]
    assert set(events[0].values) == {"num_params", "num_macs", "size_bytes", "latency_p50_ms", "latency_p95_ms"}
    assert 0 <= events[-1].values["accuracy"] <= 1
    assert [point["epoch"] for point in events[-1].curve] == [1, 2]
    assert events[-1].checkpoint in memory_store.objects


def test_a_trial_in_two_jobs_is_the_trial_in_one(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    whole = _run(_runner(trial_context, memory_store), _job(to_epoch=3))[-1]
    first = _run(_runner(trial_context, memory_store), _job(to_epoch=1))
    second = _run(_runner(trial_context, memory_store), _job(from_epoch=1, to_epoch=3, checkpoint=first[-1].checkpoint, known=first[0].values))
    assert [event.kind for event in second] == ["epoch", "epoch", "rung"]
    assert second[-1].values == whole.values
    assert second[-1].checkpoint.rpartition("/")[0] == whole.checkpoint.rpartition("/")[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(("text", "num_measured"), [("num_params <= 10", 0), ("size_bytes <= 10", 0), ("latency_p50_ms <= 0.00001", 1)])
def test_a_broken_constraint_ends_a_trial_before_its_first_step(
    trial_context: TrialContext, memory_store: MemoryStore, text: str, num_measured: int
) -> None:
    steps: list[None] = []
    meter = RecordedLatencyMeter()
    context = replace(trial_context, constraints=(constraints.parse(text, where="here"),))
    [event] = _run(_runner(context, memory_store, meter, lambda: steps.append(None)), _job())
    assert event.kind == "infeasible"
    assert event.excess > 0
    assert text.split(" <= ")[0] in event.error
    assert (len(steps), meter.num_measured) == (0, num_measured)


def test_a_recipe_that_cannot_be_carried_out_is_infeasible(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    [event] = _run(_runner(trial_context, memory_store), _job(params={**PARAMS, "width": 64}))
    assert (event.kind, event.excess) == ("infeasible", 1.0)
    assert event.error


def test_a_loss_that_is_no_number_fails_the_trial(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    context = replace(trial_context, logits_VNC=trial_context.logits_VNC * float("nan"))  # type: ignore[operator]
    event = _run(_runner(context, memory_store), _job())[-1]
    assert event.kind == "failed"
    assert "wanted a finite number" in event.error


def test_equal_trials_have_equal_hashes_and_others_do_not(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = _runner(trial_context, memory_store)
    hashes = [next(runner(_job(params={**PARAMS, **change}))).effective for change in ({}, {"prune_ratio": 0.301}, {"lr": 0.02}, {"weight_bits": 32})]
    assert hashes[0] == hashes[1], "0.300 and 0.301 of a few channels round to the same student"
    assert len(set(hashes)) == 3


def test_a_checkpoint_that_changed_is_refused(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = _runner(trial_context, memory_store)
    done = _run(runner, _job())
    assert done[-1].checkpoint is not None
    memory_store.objects[done[-1].checkpoint] += b"x"
    with pytest.raises(ArtifactCorrupt, match=r"has the hash.*--fresh search"):
        _run(runner, _job(from_epoch=1, to_epoch=2, checkpoint=done[-1].checkpoint, known=done[0].values))


def test_a_students_checkpoint_that_changed_names_the_stage_that_forgets_it(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = _runner(trial_context, memory_store)
    memory_store.put("checkpoints/k/000003-0000.pt", b"x")
    with pytest.raises(ArtifactCorrupt, match=r"has the hash.*--fresh student"):
        runner.finish(_trial(runner), prefix="checkpoints/k")


def _trial(runner: TrialRunner) -> Trial:
    event = _run(runner, _job(to_epoch=2))[-1]
    recipe = CompressionRecipe(steps=(Step(kind="quantize", params={"bits": 8}),))
    return Trial(trial_id="t", number=0, params=PARAMS, recipe=recipe, resource_used=2, curve=event.curve, checkpoint=event.checkpoint, seed=1)


def test_the_chosen_trial_goes_on_from_its_checkpoint(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = _runner(trial_context, memory_store)
    whole = _run(runner, _job(to_epoch=4))[-1]
    student = runner.finish(_trial(runner), prefix="checkpoints/student")
    assert [point["epoch"] for point in student.curve] == [1, 2, 3, 4]
    assert student.val_metrics["accuracy"] == whole.values["accuracy"]
    assert student.curve[-1]["val_loss"] == whole.curve[-1]["val_loss"]


def test_a_finish_that_was_killed_resumes_from_its_own_checkpoint(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = _runner(trial_context, memory_store)
    trial = _trial(runner)
    expected = runner.finish(trial, prefix="checkpoints/student").curve
    kept = sorted(key for key in memory_store.objects if key.startswith("checkpoints/student/"))
    assert len(kept) == 2
    memory_store.delete(kept[-1])
    again = runner.finish(replace(trial, checkpoint="gone"), prefix="checkpoints/student")
    assert [dict(point) for point in again.curve] == [dict(point) for point in expected]


def test_a_trial_whose_checkpoint_was_collected_trains_again_and_tells_only_what_is_new(
    trial_context: TrialContext, memory_store: MemoryStore
) -> None:
    runner = _runner(trial_context, memory_store)
    first = _run(runner, _job(to_epoch=2))[-1]
    kept = _run(runner, replace(_job(to_epoch=4), checkpoint=first.checkpoint))
    assert first.checkpoint is not None
    memory_store.delete(first.checkpoint)
    again = _run(runner, replace(_job(to_epoch=4), checkpoint=first.checkpoint))
    assert [event.epoch for event in again if event.kind == "epoch"] == [3, 4]
    assert [dict(point) for point in again[-1].curve] == [dict(point) for point in kept[-1].curve]


def test_the_chosen_trial_is_finished_although_its_checkpoint_was_collected(trial_context: TrialContext, memory_store: MemoryStore) -> None:
    runner = _runner(trial_context, memory_store)
    trial = _trial(runner)
    expected = runner.finish(trial, prefix="checkpoints/one").curve
    again = runner.finish(replace(trial, checkpoint="studies/s/trials/000000/000002-gone.pt"), prefix="checkpoints/two")
    assert [dict(point) for point in again.curve] == [dict(point) for point in expected]
