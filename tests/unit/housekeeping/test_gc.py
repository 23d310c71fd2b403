"""What goes and what stays, in two steps, one collector at a time, and nothing at all where it is not known what is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from foundry_ray.artifacts.local import LocalStore
from foundry_ray.artifacts.manifests import publish, put_json, read_file
from foundry_ray.cli.main import main
from foundry_ray.config import LimitsConfig, RetentionConfig
from foundry_ray.errors import ArtifactCorrupt, Conflict, StoreError, StoreUnavailable
from foundry_ray.housekeeping.gc import Collection, Collector
from foundry_ray.runlog import delete_run, load_run, save_run
from foundry_ray.runlog.leases import Holder
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stored_runs import RUN_ID, stage_key_of, store_extending_run, store_run
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import RunRecord, RunStatus, StageRecord, StageStatus, to_json

_DAY_S = 86_400.0
_STUDY, _TEACHER = stage_key_of("study"), stage_key_of("teacher")
_CHECKPOINTS = {"000000010-a", "000000020-a"}


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    """One finished run of ten days ago."""
    store = MemoryStore(clock)
    store_run(store, clock=clock)
    clock.advance(10 * _DAY_S)
    return store


def _collector(store: MemoryStore, clock: FakeClock, *, grace_s: float = _DAY_S, **retention: object) -> Collector:
    limits = LimitsConfig(lease_ttl_s=4.0)
    return Collector(
        store=store, retention=RetentionConfig(**retention), grace_s=grace_s, clock=clock, reporter=RecordingReporter(), limits=limits, num_threads=1
    )


def _collect(store: MemoryStore, clock: FakeClock, **retention: object) -> Collection:
    """Mark, wait, delete."""
    _collector(store, clock, **retention).collect()
    clock.advance(_DAY_S)
    return _collector(store, clock, **retention).collect()


def _going(collection: Collection) -> dict[str, int]:
    return {kind.kind: kind.num_going for kind in collection.kinds if kind.num_going}


def _add_garbage(store: MemoryStore, clock: FakeClock) -> str:
    """An artifact of a while ago that nobody names."""
    ref = publish(store, kind="model", files={"x": b"nobody's"}, created_at="")
    clock.advance(2 * _DAY_S)
    return ref.key


def test_a_look_counts_and_writes_nothing(store: MemoryStore, clock: FakeClock) -> None:
    known = set(store.objects)
    _add_garbage(store, clock)
    before = dict(store.objects)
    found = _collector(store, clock, checkpoints="all", trials="all").look()
    assert (found.action, _going(found)) == ("looked", {"artifacts": 1, "blobs": 1})
    assert found.going_bytes == sum(len(data) for key, data in before.items() if key not in known)
    assert store.objects == before


def test_garbage_is_marked_and_goes_a_grace_later(store: MemoryStore, clock: FakeClock) -> None:
    key = _add_garbage(store, clock)
    marked = _collector(store, clock).collect()
    assert (marked.action, marked.ready_in_s, key in store.objects) == ("marked", _DAY_S, True)
    clock.advance(_DAY_S / 2)
    assert (_collector(store, clock).collect().action, key in store.objects) == ("waiting", True)
    clock.advance(_DAY_S / 2)
    assert (_collector(store, clock).collect().action, key in store.objects) == ("deleted", False)


def test_without_a_grace_both_steps_happen_at_once(store: MemoryStore, clock: FakeClock) -> None:
    key = _add_garbage(store, clock)
    assert _collector(store, clock, grace_s=0.0).collect().action == "deleted"
    assert key not in store.objects
    assert _collector(store, clock, grace_s=0.0).collect().action == "clean"


def test_what_is_young_stays(store: MemoryStore, clock: FakeClock) -> None:
    ref = publish(store, kind="model", files={"x": b"new"}, created_at="")
    clock.advance(_DAY_S / 2)
    _collector(store, clock).collect()
    assert read_file(store, ref.key, "x") == b"new"


def test_what_is_named_between_the_steps_stays(store: MemoryStore, clock: FakeClock) -> None:
    key = _add_garbage(store, clock)
    _collector(store, clock).collect()
    save_run(store, replace(load_run(store, RUN_ID), run_id="later", config={"model": key}))
    clock.advance(_DAY_S)
    _collector(store, clock).collect()
    assert read_file(store, key, "x") == b"nobody's"


def test_a_run_and_its_version_keep_all_that_they_lead_to(store: MemoryStore, clock: FakeClock) -> None:
    before = set(store.objects)
    assert _collector(store, clock, checkpoints="all", trials="all").collect().action == "clean"
    assert before <= set(store.objects)


def test_a_deleted_run_leaves_what_the_registered_version_leads_to(store: MemoryStore, clock: FakeClock) -> None:
    delete_run(store, RUN_ID)
    _collect(store, clock)
    student = json.loads(store.objects["registry/mnist/versions/00000001"])["model"]["artifact"]["key"]
    assert read_file(store, student, "model.onnx") == b"student 0"
    assert not [key for key in store.objects if key.startswith(("checkpoints/", "studies/"))]
    assert f"stages/teacher/{_TEACHER}.json" not in store.objects


def test_what_two_runs_share_goes_with_the_last(clock: FakeClock) -> None:
    store = MemoryStore(clock)
    first, second = (store_run(store, clock=clock, run_id=f"r-{seed}", seed=seed) for seed in (1, 2))
    dataset = first.stage("data").outputs["key"]
    for key in [key for key in store.objects if key.startswith("registry")]:
        store.delete(key)
    clock.advance(10 * _DAY_S)
    delete_run(store, first.run_id)
    _collect(store, clock)
    assert dataset in store.objects
    delete_run(store, second.run_id)
    _collect(store, clock)
    assert not [key for key in store.objects if key.startswith(("artifacts/", "blobs/", "stages/", "studies/", "checkpoints/"))]


def test_objects_of_others_are_never_touched(store: MemoryStore, clock: FakeClock) -> None:
    foreign = ["notes.txt", "stages/mine/readme", "blobs/sha256/readme", "checkpoints/mine/1", "artifacts/x.json", "runs/mine/log"]
    for key in foreign:
        store.put(key, b"1")
    clock.advance(10 * _DAY_S)
    outcome = _collect(store, clock)
    assert set(foreign) <= set(store.objects)
    assert next(kind.why for kind in outcome.kinds if kind.kind == "notes.txt") == "not foundry's, never touched"


@pytest.mark.parametrize(("policy", "folders"), [("all", _CHECKPOINTS), ("last", {max(_CHECKPOINTS)}), ("none", set())])
def test_checkpoints_of_finished_stages_stay_as_the_retention_says(store: MemoryStore, clock: FakeClock, policy: str, folders: set[str]) -> None:
    _collect(store, clock, checkpoints=policy)
    prefix = f"checkpoints/{_TEACHER}/"
    assert {key.split("/")[2] for key in store.objects if key.startswith(prefix)} == folders


@pytest.mark.parametrize(("policy", "numbers"), [("all", {0, 1, 2}), ("front", {0, 1}), ("none", set())])
def test_trials_of_finished_studies_stay_as_the_retention_says(store: MemoryStore, clock: FakeClock, policy: str, numbers: set[int]) -> None:
    _collect(store, clock, trials=policy)
    prefix = f"studies/{_STUDY}/trials/"
    assert {int(key.split("/")[3]) for key in store.objects if key.startswith(prefix)} == numbers
    assert [key for key in store.objects if key.startswith(f"studies/{_STUDY}/journal/")]


def _change(store: MemoryStore, stage: str, **changes: object) -> None:
    record = load_run(store, RUN_ID)
    stages = tuple(replace(one, **changes) if one.name == stage else one for one in record.stages)
    save_run(store, replace(record, stages=stages, status=RunStatus.INTERRUPTED))


@pytest.mark.parametrize("progress_key", [_STUDY, ""])
def test_an_unfinished_study_keeps_all_its_trials(store: MemoryStore, clock: FakeClock, progress_key: str) -> None:
    store.delete(f"stages/search/{stage_key_of('search')}.json")
    _change(store, "search", status=StageStatus.RUNNING, outputs=None, progress_key=progress_key)
    _collect(store, clock, trials="none")
    assert len([key for key in store.objects if key.startswith(f"studies/{_STUDY}/trials/")]) == 3


def test_a_study_that_a_larger_budget_continues_is_unfinished(store: MemoryStore, clock: FakeClock) -> None:
    again = StageRecord(name="search", key="e" * 32, status=StageStatus.RUNNING, progress_key=_STUDY)
    save_run(store, replace(load_run(store, RUN_ID), run_id="again", stages=(again,), status=RunStatus.RUNNING))
    _collect(store, clock, trials="none")
    assert len([key for key in store.objects if key.startswith(f"studies/{_STUDY}/trials/")]) == 3


def _trials(store: MemoryStore, seed: int = 0) -> set[int]:
    prefix = f"studies/{stage_key_of('study', seed)}/trials/"
    return {int(key.split("/")[3]) for key in store.objects if key.startswith(prefix)}


@pytest.fixture
def extended(store: MemoryStore, clock: FakeClock) -> RunRecord:
    """Another run, of ten days ago, on whose front is a trial that the first run's study stopped."""
    record = store_extending_run(store, load_run(store, RUN_ID), clock=clock)
    clock.advance(10 * _DAY_S)
    return record


def test_a_trial_that_another_study_took_over_stays_as_long_as_it_is_on_that_ones_front(
    store: MemoryStore, clock: FakeClock, extended: RunRecord
) -> None:
    _collect(store, clock)
    assert _trials(store) == {0, 1, 2}
    assert _trials(store, seed=1) == {1}


def test_a_study_that_an_unfinished_one_extends_keeps_all_its_trials_and_those_that_it_took_over(
    store: MemoryStore, clock: FakeClock, extended: RunRecord
) -> None:
    waiting = replace(extended, run_id="waiting", stages=(), config={"search": {"extends": [stage_key_of("study", 1)]}})
    save_run(store, waiting)
    _collect(store, clock, trials="none")
    assert _trials(store) == {2}
    assert _trials(store, seed=1) == {0, 1, 2}


def test_of_a_trial_on_the_front_only_the_last_checkpoint_stays(store: MemoryStore, clock: FakeClock) -> None:
    earlier = f"studies/{_STUDY}/trials/000000/000000-{'b' * 32}.safetensors"
    store.put(earlier, b"an earlier rung")
    clock.advance(10 * _DAY_S)
    _collect(store, clock)
    assert earlier not in store.objects
    assert _trials(store) == {0, 1}


def test_a_checkpoint_on_its_way_outlives_the_retention_of_a_finished_stage(store: MemoryStore, clock: FakeClock) -> None:
    young = f"checkpoints/{_TEACHER}/000000030-b/rank-00000.bin"
    store.put(young, b"its manifest comes last")
    _collect(store, clock, checkpoints="last")
    assert {key.split("/")[2] for key in store.objects if key.startswith(f"checkpoints/{_TEACHER}/")} == {"000000020-a", "000000030-b"}


def test_checkpoints_of_the_first_format_go_before_newer_ones(store: MemoryStore, clock: FakeClock) -> None:
    for name in ("manifest.json", "rank-00000.json", "rank-00000/loop.pt"):
        store.put(f"checkpoints/{_TEACHER}/000900/{name}", b"{}")
    clock.advance(2 * _DAY_S)
    _collect(store, clock, checkpoints="last")
    assert {key.split("/")[2] for key in store.objects if key.startswith(f"checkpoints/{_TEACHER}/")} == {"000000020-a"}


def test_unfinished_training_keeps_all_checkpoints(store: MemoryStore, clock: FakeClock) -> None:
    store.delete(f"stages/teacher/{_TEACHER}.json")
    _change(store, "teacher", status=StageStatus.RUNNING, outputs=None)
    _collect(store, clock, checkpoints="none")
    assert {key.split("/")[2] for key in store.objects if key.startswith(f"checkpoints/{_TEACHER}/")} == _CHECKPOINTS


def test_the_chosen_trial_stays_until_its_student_is_made(store: MemoryStore, clock: FakeClock) -> None:
    store.delete(f"stages/student/{stage_key_of('student')}.json")
    _change(store, "student", status=StageStatus.FAILED, outputs=None)
    _collect(store, clock, trials="none")
    chosen = load_run(store, RUN_ID).stage("search").outputs["chosen"]
    assert {int(key.split("/")[3]) for key in store.objects if key.startswith(f"studies/{_STUDY}/trials/")} == {chosen}


def test_work_that_somebody_holds_stays_although_no_record_names_it(store: MemoryStore, clock: FakeClock) -> None:
    store.put(f"checkpoints/{'a' * 32}/000001-{'b' * 32}.pt", b"state")
    store.put(f"checkpoints/{'c' * 32}/000001-{'b' * 32}.pt", b"state")
    clock.advance(10 * _DAY_S)
    put_json(store, f"leases/{'a' * 32}/00000001.claim", to_json(Holder.of_this_process("r")))
    _collector(store, clock, grace_s=0.0).collect()
    clock.advance(1.0)
    left = {key.split("/")[1][0] for key in store.objects if key.startswith("checkpoints/") and key.endswith(f"{'b' * 32}.pt")}
    assert "c" not in left


def test_records_expire_only_where_no_version_names_the_run(clock: FakeClock) -> None:
    store = MemoryStore(clock)
    store_run(store, clock=clock)
    save_run(store, replace(load_run(store, RUN_ID), run_id="unnamed"))
    save_run(store, replace(load_run(store, RUN_ID), run_id="killed", status=RunStatus.RUNNING))
    clock.advance(31 * _DAY_S)
    _collect(store, clock)
    assert "runs/unnamed/record.json" in store.objects
    _collect(store, clock, runs_days=30)
    assert {key for key in store.objects if key.startswith("runs/")} == {f"runs/{RUN_ID}/record.json", "runs/killed/record.json"}


def test_leases_that_were_given_back_go_and_held_ones_stay(store: MemoryStore, clock: FakeClock) -> None:
    holder = to_json(Holder.of_this_process("r"))
    for key in ("k/00000001.claim", "k/00000001.beat", "k/00000002.claim", "k/00000002.done", "h/00000001.claim", "h/00000002.claim"):
        put_json(store, f"leases/{key}", holder)
    clock.advance(2 * _DAY_S)
    _collect(store, clock)
    assert {key for key in store.objects if key.startswith(("leases/k", "leases/h"))} == {"leases/h/00000002.claim"}


@pytest.mark.parametrize("key", [f"runs/{RUN_ID}/record.json", "registry/mnist/versions/00000001", f"stages/data/{stage_key_of('data')}.json"])
@pytest.mark.parametrize(("damage", "match"), [(b"{", "cannot be read, so it is not known what it needs"), (b'{"format_version": 99}', "99")])
def test_a_needed_document_that_cannot_be_read_stops_it_all(store: MemoryStore, clock: FakeClock, key: str, damage: bytes, match: str) -> None:
    garbage = _add_garbage(store, clock)
    _collector(store, clock).collect()
    clock.advance(_DAY_S)
    store.objects[key] = damage
    with pytest.raises(StoreError, match=match) as caught:
        _collector(store, clock).collect()
    assert key in caught.value.message
    assert garbage in store.objects


def test_a_damaged_document_that_nobody_needs_stops_nothing(store: MemoryStore, clock: FakeClock) -> None:
    garbage = _add_garbage(store, clock)
    store.objects[garbage] = b"{"
    _collect(store, clock)
    assert garbage not in store.objects


def test_a_collector_that_failed_half_way_is_followed_by_one_that_goes_on(store: MemoryStore, clock: FakeClock) -> None:
    garbage, failing = _add_garbage(store, clock), FailingStore(store)
    _collector(store, clock).collect()
    clock.advance(_DAY_S)
    failing.fail("delete", times=100)
    with pytest.raises(StoreUnavailable):
        _collector(failing, clock).collect()
    assert "gc/00000001/closed" in store.objects
    assert _collector(store, clock).collect().action == "deleted"
    assert garbage not in store.objects


def test_two_do_not_collect_at_once(store: MemoryStore, clock: FakeClock) -> None:
    put_json(store, "leases/gc/00000001.claim", to_json(Holder.of_this_process("another collector")))
    beats = iter(range(10_000))
    clock.sleep = lambda seconds: (clock.advance(seconds), put_json(store, "leases/gc/00000001.beat", next(beats)))  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="Somebody else collects the garbage of memory://"):
        _collector(store, clock).collect()


def test_a_collector_that_lost_its_lease_deletes_nothing_more(store: MemoryStore, clock: FakeClock) -> None:
    garbage = _add_garbage(store, clock)
    _collector(store, clock).collect()
    clock.advance(_DAY_S)

    class Overtaken(FailingStore):
        def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
            super().put(key, source, if_absent=if_absent)
            if key.endswith("/closed"):
                put_json(store, "leases/gc/00000099.claim", to_json(Holder.of_this_process("another")))

    with pytest.raises(Conflict, match="Another run took over"):
        _collector(Overtaken(store), clock).collect()
    assert garbage in store.objects


def test_a_store_without_create_only_writes_says_so(store: MemoryStore, clock: FakeClock) -> None:
    class Weak(FailingStore):
        def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
            if if_absent:
                raise StoreError("this store has no create-only writes.", hint="`store.single_writer: true`")
            super().put(key, source)

    with pytest.raises(StoreError, match="no create-only writes"):
        _collector(Weak(store), clock).collect()


def test_collections_leave_no_trail(store: MemoryStore, clock: FakeClock) -> None:
    for _ in range(6):
        _add_garbage(store, clock)
        _collect(store, clock)
    assert len([key for key in store.objects if key.startswith("leases/gc/")]) == 2
    assert len({key.split("/")[1] for key in store.objects if key.startswith("gc/0")}) <= 2


def test_many_objects_are_deleted_in_batches(store: MemoryStore, clock: FakeClock) -> None:
    for number in range(2500):
        store.put(f"blobs/sha256/00/{number:064x}", b"")
    clock.advance(2 * _DAY_S)
    counting = FailingStore(store)
    _collector(counting, clock, grace_s=0.0, checkpoints="all", trials="all").collect()
    batches = [len(key.split()) for verb, key in counting.calls if verb == "delete" and key.startswith("blobs/")]
    assert batches == [1000, 1000, 500]


@pytest.fixture
def foundry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command on a folder store; returns the exit code and what it said."""
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "home"))

    def run(*args: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["foundry", *args, "--store", (tmp_path / "store").as_uri()])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return stop.value.code, said.out if "--json" in args else said.out + said.err

    return run


def test_the_command_looks_marks_and_deletes(foundry: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    local = LocalStore(tmp_path / "store")
    ref = publish(local, kind="model", files={"x": b"1"}, created_at="")
    code, said = foundry("store", "gc", "--grace", "0s")
    assert (code, "would go. Nothing was changed" in said, local.stat(ref.key) is not None) == (0, True, True)
    code, said = foundry("store", "gc", "--apply")
    assert (code, "Nothing goes: all is needed, or younger than 24 h 00 min" in said) == (0, True)
    code, said = foundry("store", "gc", "--apply", "--grace", "0s", "--json")
    assert (code, json.loads(said)["action"], local.stat(ref.key)) == (0, "deleted", None)


def test_a_grace_that_is_none_is_a_mistake_of_the_user(foundry: Callable[..., tuple[int, str]]) -> None:
    code, said = foundry("store", "gc", "--grace", "soon")
    assert (code, "--grace is 'soon', wanted a number with s, m, h or d" in said) == (2, True)


def test_the_error_of_an_unreadable_root_names_it(store: MemoryStore, clock: FakeClock) -> None:
    store.objects[f"runs/{RUN_ID}/record.json"] = b"[]"
    with pytest.raises(ArtifactCorrupt, match=f"runs/{RUN_ID}/record.json cannot be read"):
        _collector(store, clock).look()
