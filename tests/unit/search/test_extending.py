"""What is asked of a larger study, and what came of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foundry_ray.config import PipelineConfig, validate
from foundry_ray.errors import ConfigError, OutOfRange, UnknownKey
from foundry_ray.reporting.studies import extension_line
from foundry_ray.search import segments
from foundry_ray.search.extending import Changes, Extension, changed_config, count_taken_over, has_same_data
from foundry_ray.testing import samples
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import canonical_bytes, to_json

CONFIG = validate(PipelineConfig, {"name": "mnist", "data": {"source": "mnist_5k"}, "search": {"budget": {"trials": 12}}}, where="test")
RECORD = replace(samples.record(), config=to_json(CONFIG.model_dump(mode="json")))


def test_only_what_is_asked_for_changes() -> None:
    changed = changed_config(RECORD, Changes(space="compression", objectives=("accuracy:max", "num_macs:min"), overrides=("student.epochs=40",)))
    assert (changed.search.space, changed.student.epochs) == ("compression", 40)
    assert [(one.metric, one.mode) for one in changed.search.objectives or ()] == [("accuracy", "max"), ("num_macs", "min")]
    search = CONFIG.search.model_copy(update={"space": "compression", "objectives": changed.search.objectives})
    assert changed == CONFIG.model_copy(update={"search": search, "student": CONFIG.student.model_copy(update={"epochs": 40})})


def test_the_record_itself_is_not_changed() -> None:
    before = to_json(RECORD)
    changed_config(RECORD, Changes(overrides=("student.epochs=40", "search.budget.trials=3")))
    assert to_json(RECORD) == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (Changes(), ConfigError, "nothing is changed of mnist-20260101-000000-aaaa"),
        (Changes(objectives=("accuracy",)), ConfigError, "--objective got 'accuracy', wanted metric:max or metric:min"),
        (Changes(objectives=("accuracy:up",)), ConfigError, "--objective got 'accuracy:up'"),
        (Changes(overrides=("student.epoch=3",)), UnknownKey, "student.epoch is no key"),
        (Changes(overrides=("student.epochs=0",)), OutOfRange, "student.epochs is 0"),
        (Changes(trials=3, overrides=("search.budget.trials=9",)), ConfigError, "both say how many trials"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(changes: Changes, error: type[ConfigError], message: str) -> None:
    with pytest.raises(error, match=message):
        changed_config(RECORD, changes)


@pytest.mark.parametrize(
    ("override", "is_same"),
    [("search.choose=knee", True), ("student.epochs=40", True), ("teacher.workers=4", True), ("data.split.val=0.2", False), ("seed=1", False)],
)
def test_data_and_teacher_are_the_same_where_nothing_that_makes_them_changes(override: str, is_same: bool) -> None:
    assert has_same_data(changed_config(RECORD, Changes(overrides=(override,))), CONFIG) is is_same


def test_what_was_taken_over_is_counted_from_the_journal(store: MemoryStore) -> None:
    events = [canonical_bytes({"kind": kind, "number": 0, "source": "a"}) for kind in ("open", "adopt", "adopt", "suggest", "ask")]
    store.put("studies/s/journal/00000000", segments.segment(events, driver="d", number=0))
    assert count_taken_over(store, "s") == (2, 1)


@pytest.mark.parametrize(
    ("study_key", "num_adopted", "num_suggested", "said"),
    [
        ("a" * 32, 0, 0, "The same study, study-aaaaaaaa, went on: nothing of its 12 trials was done again."),
        ("b" * 32, 9, 0, "9 of the 12 trials of study-aaaaaaaa were taken over, without being trained again."),
        ("b" * 32, 0, 5, "The training is another one: the parameters of the best 5 trials of study-aaaaaaaa were tried first."),
        ("b" * 32, 0, 0, "None of the 12 trials of study-aaaaaaaa lies in this space: it began with nothing."),
    ],
)
def test_what_a_study_began_with_is_said(study_key: str, num_adopted: int, num_suggested: int, said: str) -> None:
    extension = Extension(extended="a" * 32, study_key=study_key, num_before=12, num_adopted=num_adopted, num_suggested=num_suggested, record=RECORD)
    assert extension_line(extension) == said
