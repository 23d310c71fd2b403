"""Which checkpoints stay, and that the others go in an order that leaves none half."""

from __future__ import annotations

import pytest

from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.training.checkpoint import chosen, committed, keep, progress_key
from tests.unit.training.checkpoint._states import KEY, make_states, make_truth, make_writers, save

STATES = make_states(make_truth(), 2)


def _save(store: MemoryStore, *steps: int, attempt: str = "a") -> None:
    for step in steps:
        save(store, STATES, step=step, attempt=attempt)


def _leave(store: MemoryStore, step: int, attempt: str) -> str:
    """A part without a manifest; returns its folder."""
    writer = make_writers(store, 2, RecordingReporter(), attempt=attempt)[1]
    writer.save(step, 1, STATES[1], {})
    writer.close()
    return f"{step:09d}-{attempt}"


def _folders(store: MemoryStore) -> set[str]:
    return {key.split("/")[2] for key in store.objects if key.count("/") > 2}


@pytest.mark.parametrize(
    ("last", "best", "steps"), [(1, 0, {50}), (2, 0, {40, 50}), (1, 1, {20, 50}), (1, 2, {20, 30, 50}), (9, 9, {10, 20, 30, 40, 50})]
)
def test_the_newest_and_the_best_are_chosen(store: MemoryStore, last: int, best: int, steps: set[int]) -> None:
    """30 is as good as 40, and earlier; 10 was never judged; of 60 there is no checkpoint."""
    _save(store, 10, 20, 30, 40, 50)
    values = {20: 0.9, 30: 0.5, 40: 0.5, 50: float("nan"), 60: 1.0}
    assert chosen(committed(store, KEY), values, keep_last=last, keep_best=best) == steps


def test_all_others_are_deleted_and_nothing_else(store: MemoryStore) -> None:
    _save(store, 10, 20, 30)
    store.put(progress_key(KEY), b"{}")
    store.put("checkpoints/other/000000010-a/manifest.json", b"{}")
    keep(store, KEY, {10, 30})
    assert [one.step for one in committed(store, KEY)] == [10, 30]
    assert not [key for key in store.objects if "000000020" in key]
    assert {progress_key(KEY), "checkpoints/other/000000010-a/manifest.json"} <= store.objects.keys()


def test_a_manifest_goes_before_what_it_names(store: MemoryStore) -> None:
    _save(store, 10, 20)
    seen = FailingStore(store)
    keep(seen, KEY, {20})
    deleted = [keys for verb, keys in seen.calls if verb == "delete"]
    manifest = f"checkpoints/{KEY}/000000010-a/manifest.json"
    assert deleted[0] == manifest
    assert deleted[-1] == manifest  # whoever still wrote it saw its parts before they went


def test_of_a_step_that_was_saved_twice_the_newest_stays(store: MemoryStore) -> None:
    _save(store, 10, attempt="b")
    _save(store, 10, attempt="a")
    keep(store, KEY, {10})
    assert [one.attempt for one in committed(store, KEY)] == ["a"]


def test_leftovers_of_dead_attempts_go_once_they_are_overtaken(store: MemoryStore) -> None:
    behind, level, ahead = _leave(store, 10, "dead"), _leave(store, 20, "dead"), _leave(store, 30, "living")
    keep(store, KEY, ())
    assert _folders(store) == {behind, level, ahead}
    _save(store, 20)
    keep(store, KEY, {20})
    assert _folders(store) == {"000000020-a", ahead}


def test_a_later_step_that_was_given_up_pushes_out_nothing_that_was_made_after_it(store: MemoryStore) -> None:
    """Nobody could read 40, so training went on from 20, and is about to save 30."""
    _save(store, 20, 40)
    _save(store, 25, attempt="b")
    on_its_way = _leave(store, 30, "b")
    steps = chosen(committed(store, KEY), {}, keep_last=1, keep_best=0)
    assert steps == {25}
    keep(store, KEY, steps)
    assert _folders(store) == {"000000025-b", on_its_way}


def test_the_first_format_goes_when_there_is_something_newer(store: MemoryStore) -> None:
    store.put(f"checkpoints/{KEY}/000002/manifest.json", b"{}")
    keep(store, KEY, ())
    assert _folders(store) == {"000002"}
    _save(store, 10)
    keep(store, KEY, {10})
    assert _folders(store) == {"000000010-a"}
