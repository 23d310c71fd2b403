import threading
from dataclasses import replace

import pytest

from foundry_ray.artifacts.keys import check_key
from foundry_ray.artifacts.manifests import put_json
from foundry_ray.errors import ArtifactNotFound, ConfigError, Conflict
from foundry_ray.runlog import (
    Lease,
    StageResult,
    commit_result,
    delete_run,
    find_run,
    forget_result,
    hold,
    list_runs,
    load_run,
    new_run_id,
    read_result,
    save_run,
    stage_key,
)
from foundry_ray.runlog.leases import Holder
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import RunRecord, to_json

RESULT = StageResult(outputs={"x": 1}, run_id="r-1", created_at="now", duration_s=1.0, versions={"ray": "2"})
RECORD = RunRecord(run_id="mnist-20260101-000000-aaaa", pipeline="mnist", config={}, versions={})


def _hold(store: MemoryStore, clock: FakeClock, reporter: RecordingReporter, *, is_done=lambda: False, wait_s: float = 100.0):
    return hold(store, "key", run_id="me", ttl_s=4.0, wait_s=wait_s, clock=clock, reporter=reporter, is_done=is_done)


def _claim(store: MemoryStore, fence: int, **changes: object) -> None:
    put_json(store, f"leases/key/{fence:08d}.claim", to_json(replace(Holder.of_this_process("other"), **changes)))


def test_a_key_changes_with_each_of_its_parts() -> None:
    base = stage_key("teacher", version=1, fields={"lr": 0.1}, inputs={"data": "a"})
    others = [
        stage_key("student", version=1, fields={"lr": 0.1}, inputs={"data": "a"}),
        stage_key("teacher", version=2, fields={"lr": 0.1}, inputs={"data": "a"}),
        stage_key("teacher", version=1, fields={"lr": 0.2}, inputs={"data": "a"}),
        stage_key("teacher", version=1, fields={"lr": 0.1}, inputs={"data": "b"}),
    ]
    assert len({base, *others}) == 5
    assert base == stage_key("teacher", version=1, fields={"lr": 0.1}, inputs={"data": "a"})


def test_the_first_result_stands(store: MemoryStore) -> None:
    commit_result(store, "teacher", "k", RESULT)
    commit_result(store, "teacher", "k", replace(RESULT, run_id="r-2"))
    assert read_result(store, "teacher", "k") == RESULT
    forget_result(store, "teacher", "k")
    assert read_result(store, "teacher", "k") is None


def test_a_free_key_is_held_and_released(store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    with _hold(store, clock, reporter) as first:
        assert first is not None
        assert first.fence == 1
    with _hold(store, clock, reporter) as second:
        assert second is not None
        assert second.fence == 2
    assert reporter.warnings == []


def test_work_done_meanwhile_is_not_done_again(store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    _claim(store, 1)
    with _hold(store, clock, reporter, is_done=lambda: len(clock.sleeps) > 2) as lease:
        assert lease is None
    assert "run other is working on the same stage" in reporter.warnings[0]


def test_a_silent_holder_on_another_machine_is_replaced_after_its_time(store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    _claim(store, 1, machine="elsewhere")
    with _hold(store, clock, reporter) as lease:
        assert lease is not None
        assert lease.fence == 2
    assert 4.0 < sum(clock.sleeps) < 6.0


def test_a_holder_whose_process_is_gone_is_replaced_at_once(store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    _claim(store, 1, started="long ago")
    with _hold(store, clock, reporter) as lease:
        assert lease is not None
    assert clock.sleeps == []


def test_a_beating_holder_is_waited_for_until_the_limit(store: MemoryStore, reporter: RecordingReporter) -> None:
    _claim(store, 1, machine="elsewhere")

    class BeatingClock(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            put_json(store, "leases/key/00000001.beat", len(self.sleeps))

    with pytest.raises(Conflict, match="Run other still works on key after 20 s"), _hold(store, BeatingClock(), reporter, wait_s=20.0):
        pass


def test_a_fenced_holder_may_not_commit(store: MemoryStore) -> None:
    lease = Lease(store, "key", 1, ttl_s=0.02)
    _claim(store, 2)
    deadline = threading.Event()
    while not lease._lost.is_set() and not deadline.wait(0.01):
        pass
    with pytest.raises(Conflict, match="Another run took over"):
        lease.check()
    lease.release()


def test_one_of_two_racing_threads_waits_for_the_other(store: MemoryStore, reporter: RecordingReporter) -> None:
    from foundry_ray.clock import SystemClock

    done: list[str] = []

    def work(name: str) -> None:
        with hold(store, "key", run_id=name, ttl_s=4.0, wait_s=20.0, clock=SystemClock(), reporter=reporter, is_done=lambda: bool(done)) as lease:
            if lease is not None:
                done.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(done) == 1


def test_runs_are_found_by_id_beginning_and_latest(store: MemoryStore) -> None:
    save_run(store, RECORD)
    save_run(store, replace(RECORD, run_id="mnist-20260102-000000-bbbb"))
    assert list(list_runs(store)) == ["mnist-20260101-000000-aaaa", "mnist-20260102-000000-bbbb"]
    assert find_run(store, "latest").run_id == "mnist-20260102-000000-bbbb"
    assert find_run(store, "mnist-20260101").run_id == RECORD.run_id
    with pytest.raises(ConfigError, match="is the beginning of 2 runs"):
        find_run(store, "mnist-2026")


def test_an_unknown_run_names_the_latest_ones(store: MemoryStore) -> None:
    save_run(store, RECORD)
    with pytest.raises(ArtifactNotFound, match=r"There is no run 'nope'.*mnist-20260101-000000-aaaa"):
        load_run(store, "nope")


@pytest.mark.parametrize("name", ["nope", "my run", "../x"])
def test_a_name_that_is_no_key_is_an_unknown_run_as_well(store: MemoryStore, name: str) -> None:
    with pytest.raises(ArtifactNotFound, match=r"There is no run .*none yet") as caught:
        find_run(_Checking(store), name)
    assert caught.value.exit_code == 2


class _Checking(FailingStore):
    """Refuses keys as the real stores do."""

    def get(self, key: str) -> bytes:
        return super().get(check_key(key))


def test_deleting_a_run_keeps_stage_results(store: MemoryStore, clock: FakeClock) -> None:
    save_run(store, RECORD)
    commit_result(store, "teacher", "k", RESULT)
    delete_run(store, RECORD.run_id)
    assert list(list_runs(store)) == []
    assert read_result(store, "teacher", "k") == RESULT
    assert new_run_id("mnist", clock).startswith("mnist-20231114-")
