"""Saving goes on beside the training, and what goes wrong there is a warning: no checkpoint counts that is not whole."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from foundry_ray.artifacts.local import LocalStore
from foundry_ray.errors import StoreUnavailable, TrainingError
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.training.checkpoint import Checkpoint, committed, latest, restore
from foundry_ray.training.checkpoint.commit import find_parts
from foundry_ray.training.checkpoint.layout import parse_index
from foundry_ray.training.state import LoopState
from foundry_ray.types import parse_json
from tests.unit.training.checkpoint._states import KEY, GatedStore, are_equal, blank, make_states, make_truth, make_writers, save

FOLDER = f"checkpoints/{KEY}/000000010-a/"


def _steps(store: MemoryStore) -> list[int]:
    return [checkpoint.step for checkpoint in committed(store, KEY)]


@pytest.fixture
def state() -> LoopState:
    return make_states(make_truth(), 1)[0]


def test_the_manifest_says_all_that_the_training_needs(store: MemoryStore, reporter: RecordingReporter, state: LoopState) -> None:
    [writer] = make_writers(store, 1, reporter)
    writer.save(7, 3, replace(state, document={"epoch": 3, "curve": ({"loss": 0.1},)}), {"shape": "1 worker"})
    writer.wait()
    found = latest(store, KEY)
    assert found == writer.newest
    assert found is not None
    assert (found.step, found.epoch, found.world_size, found.attempt) == (7, 3, 1, "a")
    assert (found.document, found.meta) == ({"epoch": 3, "curve": [{"loss": 0.1}]}, {"shape": "1 worker"})


def test_every_element_is_saved_once(store: MemoryStore) -> None:
    """What all ranks hold they share out evenly."""
    checkpoint = save(store, make_states(make_truth(), 3, replicated=("weights", "mean")))
    keys = [f"{checkpoint.folder}rank-{rank:05d}.json" for rank in range(3)]
    indices = [parse_index(key, parse_json(store.get(key), what=key)) for key in keys]
    saved = sorted((block.slot, block.name, block.start + element) for index in indices for block in index.blocks for element in range(block.numel))
    assert len(saved) == len(set(saved)) == 2 * 168
    assert {sum(block.numel for block in index.blocks) for index in indices} == {112}


def test_the_state_may_change_as_soon_as_it_is_saved(reporter: RecordingReporter) -> None:
    store, states = GatedStore(".bin"), make_states(make_truth(), 1)
    [writer] = make_writers(store, 1, reporter)
    writer.save(10, 1, states[0], {})
    for fragment in states[0].fragments:
        fragment.tensor.fill_(-1.0)
    store.gate.set()
    writer.wait()
    checkpoint, [live] = latest(store, KEY), blank(states)
    assert checkpoint is not None
    restore(store, checkpoint, live, rank=0, world_size=1)
    assert are_equal([live], make_states(make_truth(), 1))


def test_a_slow_store_does_not_hold_the_loop(reporter: RecordingReporter, state: LoopState) -> None:
    store = GatedStore(".bin")
    [writer] = make_writers(store, 1, reporter)
    writer.save(10, 1, state, {})
    assert writer.is_busy
    assert writer.blocked_s < 1.0  # the gate stays closed: the loop waits for no store
    store.gate.set()
    writer.wait()
    assert not writer.is_busy


def test_the_next_save_waits_for_the_memory_and_says_so(state: LoopState, reporter: RecordingReporter) -> None:
    store, clock = GatedStore(".bin"), FakeClock()
    [writer] = make_writers(store, 1, reporter, clock=clock)
    writer.save(10, 1, state, {})
    assert writer.blocked_s == 0.0
    timer = threading.Timer(0.05, lambda: (clock.advance(8.0), store.gate.set()))
    timer.start()
    writer.save(20, 2, state, {})
    writer.wait()
    assert writer.blocked_s == 8.0
    assert _steps(store) == [10, 20]


def test_an_upload_that_does_not_end_costs_the_next_checkpoint(state: LoopState, reporter: RecordingReporter) -> None:
    store = GatedStore(".bin")
    [writer] = make_writers(store, 1, reporter, timeout_s=0.05)
    writer.save(10, 1, state, {})
    writer.save(20, 2, state, {})
    assert "step 20 is not saved: the upload of step 10 still runs after 0.05 s. Hint: save less often" in reporter.warnings[0]
    with pytest.raises(StoreUnavailable, match="step 10 still runs"):
        writer.wait()
    store.gate.set()
    writer.close()
    assert _steps(store) == [10]


def test_the_memory_of_an_upload_that_does_not_end_is_never_written_over(reporter: RecordingReporter) -> None:
    store, states = GatedStore(".bin"), make_states(make_truth(), 1)
    [writer] = make_writers(store, 1, reporter, timeout_s=0.05)
    writer.save(10, 1, states[0], {})
    writer.save(20, 2, states[0], {})  # left out
    for fragment in states[0].fragments:
        fragment.tensor.fill_(-1.0)
    writer.save(30, 3, states[0], {})
    store.gate.set()
    writer.close()
    checkpoint, [live] = latest(store, KEY), blank(states)
    assert checkpoint is not None
    restore(store, checkpoint, live, rank=0, world_size=1)
    assert are_equal([live], make_states(make_truth(), 1))


def test_it_counts_when_the_last_part_is_there(reporter: RecordingReporter) -> None:
    store, states = MemoryStore(), make_states(make_truth(), 3)
    writers = make_writers(store, 3, reporter)
    for rank in (0, 2):
        writers[rank].save(10, 1, states[rank], {})
    assert writers[0].is_busy
    assert _steps(store) == []
    writers[1].save(10, 1, states[1], {})
    for writer in writers:
        writer.wait()
    assert _steps(store) == [10]


def test_a_rank_has_done_its_part_before_the_checkpoint_counts(reporter: RecordingReporter) -> None:
    store, states = MemoryStore(), make_states(make_truth(), 2)
    writers = make_writers(store, 2, reporter, timeout_s=0.05)
    writers[1].save(10, 1, states[1], {})
    writers[1].wait_for_part()
    with pytest.raises(StoreUnavailable, match="was not committed within"):
        writers[1].wait()
    writers[0].save(10, 1, states[0], {})
    writers[0].wait_for_part()
    assert _steps(store) == [10]


def test_an_object_that_is_short_is_no_part(store: MemoryStore) -> None:
    folder = save(store, make_states(make_truth(), 2)).folder
    assert find_parts(store, folder, 2) is not None
    key = folder + "rank-00001.bin"
    store.put(key, store.get(key)[:-1])
    assert find_parts(store, folder, 2) is None


def test_a_group_that_dies_before_the_manifest_leaves_the_older_one(store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    states = make_states(make_truth(), 2)
    save(store, states, step=10)
    writers = make_writers(store, 2, reporter, attempt="b", clock=clock)
    writers[1].save(20, 2, states[1], {})  # rank 0 died before its part
    writers[1].close()
    assert "checkpoints/" + KEY + "/000000020-b/rank-00001.json" in store.objects
    assert _steps(store) == [10]


def test_a_part_that_never_comes_is_named(store: MemoryStore, clock: FakeClock, reporter: RecordingReporter) -> None:
    states = make_states(make_truth(), 3)
    writers = make_writers(store, 3, reporter, clock=clock)  # whose waits are over at once
    writers[2].save(10, 1, states[2], {})
    writers[2].close()
    writers[0].save(10, 1, states[0], {})
    with pytest.raises(StoreUnavailable, match=rf"the parts of 3 ranks were wanted in {FOLDER}, missing: 1\. .*commit_timeout_s"):
        writers[0].wait()
    assert "the checkpoint of step 10 is not saved" in reporter.warnings[0]
    assert not store.objects  # what will never count takes no space


@pytest.mark.parametrize("suffix", ["bin", "json", "manifest"])
def test_a_store_that_fails_is_a_warning_and_the_next_one_counts(state: LoopState, reporter: RecordingReporter, suffix: str) -> None:
    inner = MemoryStore()
    store = FailingStore(inner)
    [writer] = make_writers(store, 1, reporter)
    before = {"bin": 0, "json": 1, "manifest": 2}[suffix]
    _fail_put_after(store, before)
    writer.save(10, 1, state, {})
    with pytest.raises(StoreUnavailable, match=rf"did not answer put .*{suffix}"):
        writer.wait()
    assert "the checkpoint of step 10 is not saved: memory:// did not answer put" in reporter.warnings[0]
    assert "Training goes on; older ones stay as they are." in reporter.warnings[0]
    writer.save(20, 2, state, {})
    writer.wait()
    assert _steps(inner) == [20]
    assert not [key for key in inner.objects if "000000010" in key]


def _fail_put_after(store: FailingStore, num_good: int) -> None:
    """The put after so many fails, once."""
    inner, puts = store.put, [0]

    def put(key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        if puts[0] == num_good:
            store.fail("put")
        puts[0] += 1
        inner(key, source, if_absent=if_absent)

    store.put = put  # type: ignore[method-assign]


def test_an_outage_while_rank_0_looks_for_parts_is_waited_out(state: LoopState, clock: FakeClock, reporter: RecordingReporter) -> None:
    inner = MemoryStore()
    store = FailingStore(inner)
    store.fail("list", times=3)
    [writer] = make_writers(store, 1, reporter, clock=clock)
    writer.save(10, 1, state, {})
    writer.wait()
    assert _steps(inner) == [10]


def test_a_full_disk_says_what_to_free(tmp_path: Path, state: LoopState, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = LocalStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("foundry_ray.artifacts.local.write_whole", refuse)
        patch.setattr("foundry_ray.artifacts.local.copy", refuse)
        [writer] = make_writers(store, 1, reporter)
        writer.save(10, 1, state, {})
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            writer.wait()
    assert f"Hint: free space in {store.uri}, or keep fewer: `teacher.checkpoint.keep_last`." in reporter.warnings[0]
    assert not list(store.list(""))


def test_parts_that_vanish_while_it_is_committed_take_the_manifest_along(state: LoopState, reporter: RecordingReporter) -> None:
    """Another attempt clears leftovers at the worst moment."""

    class Cleared(MemoryStore):
        def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
            if key.endswith("manifest.json"):
                self.delete(FOLDER + "rank-00000.bin")
            super().put(key, source, if_absent=if_absent)

    store = Cleared()
    [writer] = make_writers(store, 1, reporter)
    writer.save(10, 1, state, {})
    with pytest.raises(StoreUnavailable, match="deleted while it was committed"):
        writer.wait()
    assert FOLDER + "manifest.json" not in store.objects


def test_a_step_that_is_saved_twice_is_two_checkpoints(store: MemoryStore, state: LoopState, reporter: RecordingReporter) -> None:
    """Its last step ends an epoch: it is saved before the epoch is judged, and after."""
    [writer] = make_writers(store, 1, reporter)
    for epoch in (0, 1):
        writer.save(10, epoch, state, {})
        writer.wait()
    assert [(one.step, one.epoch) for one in committed(store, KEY)] == [(10, 0), (10, 1)]


def test_what_follows_a_commit_may_fail(state: LoopState, reporter: RecordingReporter) -> None:
    def refuse(checkpoint: Checkpoint) -> None:
        raise StoreUnavailable(f"could not delete before step {checkpoint.step}.", uri="")

    store = MemoryStore()
    [writer] = make_writers(store, 1, reporter, after_commit=refuse)
    writer.save(10, 1, state, {})
    writer.wait()
    assert reporter.warnings == ["after the checkpoint of step 10: could not delete before step 10."]


def test_a_defect_in_the_thread_is_not_hidden(store: MemoryStore, state: LoopState, reporter: RecordingReporter) -> None:
    def fail(checkpoint: Checkpoint) -> None:
        raise KeyError("curve")

    [writer] = make_writers(store, 1, reporter, after_commit=fail)
    writer.save(10, 1, state, {})
    with pytest.raises(KeyError, match="curve"):
        writer.wait()
    with pytest.raises(KeyError, match="curve"):
        writer.save(20, 2, state, {})


def test_a_number_that_is_not_finite_is_refused_at_once(store: MemoryStore, state: LoopState, reporter: RecordingReporter) -> None:
    [writer] = make_writers(store, 1, reporter)
    with pytest.raises(TrainingError, match="the state after step 10 holds a number that is not finite"):
        writer.save(10, 1, replace(state, document={"lr": float("nan")}), {})


def test_closing_lets_what_is_uploaded_arrive(state: LoopState, reporter: RecordingReporter) -> None:
    store = GatedStore(".bin")
    [writer] = make_writers(store, 1, reporter)
    writer.save(10, 1, state, {})
    threading.Timer(0.05, store.gate.set).start()
    writer.close()
    assert _steps(store) == [10]


def test_the_memory_is_reused(store: MemoryStore, state: LoopState, reporter: RecordingReporter, count_buffers: Callable[[], int]) -> None:
    [writer] = make_writers(store, 1, reporter)
    for step in (10, 20, 30):
        writer.save(step, 1, state, {})
        writer.wait()
    assert count_buffers() == 1
    writer.save(40, 1, replace(state, own={}), {})
    writer.wait()
    assert count_buffers() == 2


@pytest.fixture
def count_buffers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    from foundry_ray.training.checkpoint import buffer, writer

    made: list[int] = []

    class Counted(buffer.HostBuffer):
        def __init__(self, size_bytes: int, *, is_pinned: bool) -> None:
            made.append(size_bytes)
            super().__init__(size_bytes, is_pinned=is_pinned)

    monkeypatch.setattr(writer, "HostBuffer", Counted)
    return lambda: len(made)


def test_without_memory_files_a_temporary_file_is_uploaded(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create")
    states = make_states(make_truth(), 2)
    live, checkpoint = blank(states), save(store, states)
    for rank, state in enumerate(live):
        restore(store, checkpoint, state, rank=rank, world_size=2)
    assert are_equal(live, states)


def test_too_little_memory_is_a_warning(store: MemoryStore, state: LoopState, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("foundry_ray.training.checkpoint.buffer.mmap.mmap", refuse)
    [writer] = make_writers(store, 1, reporter)
    writer.save(10, 1, state, {})
    with pytest.raises(StoreUnavailable, match=r"there is no memory for its 1[0-9]{3} bytes: Cannot allocate memory"):
        writer.wait()
    assert len(reporter.warnings) == 1
