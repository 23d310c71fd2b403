from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from foundry_ray.artifacts.manifests import put_json
from foundry_ray.config import LimitsConfig
from foundry_ray.errors import ArtifactCorrupt, Conflict, Diverged
from foundry_ray.runlog import load_run
from foundry_ray.stages import STAGES, AsFarAsAsked, StageRunner
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import MetricValue, RunRecord, RunStatus, StageStatus

OUTPUT = MetricValue(value=1.0, ci_low=0.5, ci_high=1.5, n=3)


def _runner(store: MemoryStore, clock: FakeClock, run_id: str = "r-1", fresh: tuple[str, ...] = (), until: str | None = None) -> StageRunner:
    context = SimpleNamespace(store=store, clock=clock, reporter=RecordingReporter(), limits=LimitsConfig())
    return StageRunner(context, RunRecord(run_id=run_id, pipeline="p", config={}, versions={}), fresh=fresh, until=until)


def _counting(calls: list[str]) -> Callable[[], MetricValue]:
    def work() -> MetricValue:
        calls.append("work")
        return OUTPUT

    return work


def test_a_stage_is_done_once_and_then_reused(store: MemoryStore, clock: FakeClock) -> None:
    calls: list[str] = []
    first, second = _runner(store, clock), _runner(store, clock, "r-2")
    assert first.do("teacher", "k", _counting(calls), MetricValue) == OUTPUT
    assert second.do("teacher", "k", _counting(calls), MetricValue) == OUTPUT
    assert calls == ["work"]
    assert second.record.stage("teacher").status is StageStatus.REUSED
    assert "run r-1" in second.record.stage("teacher").reason


def test_another_key_is_other_work(store: MemoryStore, clock: FakeClock) -> None:
    calls: list[str] = []
    runner = _runner(store, clock)
    runner.do("teacher", "k1", _counting(calls), MetricValue)
    runner.do("teacher", "k2", _counting(calls), MetricValue)
    assert len(calls) == 2


def test_fresh_forgets_the_result_and_the_work_in_progress(store: MemoryStore, clock: FakeClock) -> None:
    calls: list[str] = []
    _runner(store, clock).do("teacher", "k", _counting(calls), MetricValue)
    store.put("checkpoints/k/000001/manifest.json", b"{}")
    _runner(store, clock, fresh=("teacher",)).do("teacher", "k", _counting(calls), MetricValue)
    assert len(calls) == 2
    assert list(store.list("checkpoints/k/")) == []


def test_fresh_deletes_nothing_that_another_run_works_on(store: MemoryStore, clock: FakeClock) -> None:
    other, mine = _runner(store, clock, "other"), _runner(store, clock, "mine", fresh=("teacher",))
    mine._context.limits = LimitsConfig(lease_ttl_s=9.0, lease_wait_s=1.0)

    def work() -> MetricValue:
        store.put("checkpoints/k/000001/manifest.json", b"{}")
        with pytest.raises(Conflict, match="Run other still works on k"):
            mine.do("teacher", "k", lambda: OUTPUT, MetricValue)
        assert store.stat("checkpoints/k/000001/manifest.json") is not None
        return OUTPUT

    other.do("teacher", "k", work, MetricValue)


@pytest.mark.parametrize(("error", "status"), [(Diverged("loss is nan."), StageStatus.FAILED), (KeyboardInterrupt(), StageStatus.INTERRUPTED)])
def test_a_failed_stage_is_recorded_frees_its_lease_and_can_be_done_again(
    store: MemoryStore, clock: FakeClock, error: BaseException, status: StageStatus
) -> None:
    def fail() -> MetricValue:
        raise error

    runner = _runner(store, clock)
    with pytest.raises(type(error)):
        runner.do("teacher", "k", fail, MetricValue)
    assert runner.record.stage("teacher").status is status
    assert _runner(store, clock).do("teacher", "k", lambda: OUTPUT, MetricValue) == OUTPUT
    assert clock.sleeps == []


def test_a_store_that_fails_does_not_hide_what_ended_the_run(store: MemoryStore, clock: FakeClock) -> None:
    failing = FailingStore(store)
    runner = _runner(failing, clock)

    def work() -> MetricValue:
        failing.fail("put", times=100)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.do("teacher", "k", work, MetricValue)
    runner.fail(KeyboardInterrupt())
    assert runner.record.status is RunStatus.INTERRUPTED


def test_other_library_versions_are_a_warning_that_names_them(store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    _runner(store, clock).do("teacher", "k", lambda: OUTPUT, MetricValue)
    monkeypatch.setattr("foundry_ray.stages.library_versions", lambda: {"ray": "99"})
    runner = _runner(store, clock)
    runner.do("teacher", "k", lambda: OUTPUT, MetricValue)
    assert "-> 99; `--fresh teacher`" in runner.record.warnings[0].replace("libraries changed: ", "")


def test_the_record_is_in_the_store_after_every_change(store: MemoryStore, clock: FakeClock) -> None:
    seen: list[StageStatus] = []

    def work() -> MetricValue:
        seen.append(load_run(store, "r-1").stage("teacher").status)
        return OUTPUT

    runner = _runner(store, clock)
    runner.do("teacher", "k", work, MetricValue)
    runner.finish(RunStatus.DONE)
    assert seen == [StageStatus.RUNNING]
    assert load_run(store, "r-1").status is RunStatus.DONE


def _collection(store: MemoryStore, *candidates: str) -> None:
    """A collection that is past its last look."""
    plan = {"format_version": 1, "created_at": "", "grace_s": 0.0, "cutoff_s": 0.0, "candidates": list(candidates)}
    put_json(store, "gc/00000001/plan", plan)
    put_json(store, "gc/00000001/closed", {})


def test_the_record_names_a_stage_before_its_result_is_looked_for(store: MemoryStore, clock: FakeClock) -> None:
    counting = FailingStore(store)
    _runner(counting, clock).do("search", "k", lambda: OUTPUT, MetricValue, progress_key="study")
    assert counting.calls.index(("put", "runs/r-1/record.json")) < counting.calls.index(("get", "stages/search/k.json"))
    assert load_run(store, "r-1").stage("search").progress_key == "study"


def test_a_result_that_is_being_collected_is_made_again_after_that(store: MemoryStore, clock: FakeClock) -> None:
    calls: list[str] = []
    _runner(store, clock).do("teacher", "k", _counting(calls), MetricValue)
    _collection(store, "stages/teacher/k.json", "runs/r-2/record.json")
    sleep, runner = clock.sleep, _runner(store, clock, "r-2")

    def collect(seconds: float) -> None:
        sleep(seconds)
        store.delete("stages/teacher/k.json", "runs/r-2/record.json")
        put_json(store, "gc/00000001/done", {})

    clock.sleep = collect
    runner.do("teacher", "k", _counting(calls), MetricValue)
    assert (len(calls), len(clock.sleeps)) == (2, 1)
    assert "stage teacher waits for collection 1 of garbage" in runner.record.warnings[0]
    assert load_run(store, "r-2").stage("teacher").status is StageStatus.DONE


def test_a_collection_of_other_things_is_not_waited_for(store: MemoryStore, clock: FakeClock) -> None:
    _collection(store, "stages/teacher/other.json", "checkpoints/other/1")
    _runner(store, clock).do("teacher", "k", lambda: OUTPUT, MetricValue)
    assert clock.sleeps == []


def test_progress_that_is_being_collected_is_waited_for_within_a_limit(store: MemoryStore, clock: FakeClock) -> None:
    _collection(store, "studies/study/journal/00000000")
    with pytest.raises(Conflict, match=r"Collection 1 of garbage .* did not end in 7200 s, and may delete what stage search would use"):
        _runner(store, clock).do("search", "k", lambda: OUTPUT, MetricValue, progress_key="study")


@contextmanager
def _no_bar(self: RecordingReporter, name: str) -> Iterator[None]:
    yield


@pytest.fixture(autouse=True)
def _console_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The console reporter has verbs that the recording one lacks."""
    monkeypatch.setattr(RecordingReporter, "stage", _no_bar, raising=False)
    monkeypatch.setattr(RecordingReporter, "reused", lambda self, name, reason: None, raising=False)


def test_fresh_mends_a_result_that_cannot_be_read(store: MemoryStore, clock: FakeClock) -> None:
    calls: list[str] = []
    store.put("stages/teacher/k.json", b"[[[")
    with pytest.raises(ArtifactCorrupt, match="is not JSON"):
        _runner(store, clock).do("teacher", "k", _counting(calls), MetricValue)
    assert _runner(store, clock, fresh=("teacher",)).do("teacher", "k", _counting(calls), MetricValue) == OUTPUT
    assert _runner(store, clock).do("teacher", "k", _counting(calls), MetricValue) == OUTPUT
    assert calls == ["work"]


def test_a_run_ends_at_the_stage_that_was_asked_for_and_the_others_are_pending(store: MemoryStore, clock: FakeClock) -> None:
    runner = _runner(store, clock, until="teacher")
    runner.do("data", "d", lambda: OUTPUT, MetricValue)
    with pytest.raises(AsFarAsAsked):
        runner.do("teacher", "t", lambda: OUTPUT, MetricValue)
    record = runner.finish(RunStatus.DONE)
    assert [stage.name for stage in record.stages] == list(STAGES)
    assert [stage.status for stage in record.stages][:3] == [StageStatus.DONE, StageStatus.DONE, StageStatus.PENDING]
    assert load_run(store, "r-1").stages == record.stages


def test_a_run_that_ended_early_goes_on_under_its_record(store: MemoryStore, clock: FakeClock) -> None:
    early = _runner(store, clock, until="data")
    with pytest.raises(AsFarAsAsked):
        early.do("data", "d", lambda: OUTPUT, MetricValue)
    context = early._context
    later = StageRunner(context, early.finish(RunStatus.DONE))
    later.do("data", "d", lambda: OUTPUT, MetricValue)
    later.do("teacher", "t", lambda: OUTPUT, MetricValue)
    assert later.record.stage("data").status is StageStatus.REUSED
    assert later.record.stage("teacher").status is StageStatus.DONE
    assert [stage.name for stage in later.finish(RunStatus.DONE).stages] == ["data", "teacher"]
