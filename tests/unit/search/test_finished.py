"""What the record of a run tells of its study."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foundry_ray.errors import ArtifactNotFound, SearchError
from foundry_ray.search.finished import choose, limits_of, space_of, study_of, teacher_accuracy
from foundry_ray.search.transfer import StudyIdentity, write_identity
from foundry_ray.testing import samples
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore


def test_a_run_without_a_study_says_how_to_get_one() -> None:
    with pytest.raises(ArtifactNotFound, match="has no finished study") as caught:
        study_of(replace(samples.record(), stages=()))
    assert caught.value.hint == "`foundry resume mnist-20260101-000000-aaaa` finishes it."


def test_a_study_and_the_accuracy_of_its_teacher_are_read() -> None:
    record = samples.searched_record(20)
    assert study_of(record) == samples.searched(20)
    assert teacher_accuracy(record) == 0.98


def test_the_space_and_its_constraints_are_those_that_the_study_kept(store: MemoryStore) -> None:
    study = samples.searched(20)
    identity = StudyIdentity(space=samples.SPACE, dataset="d", teacher="t", training="x", levels=(1, 9), teacher_accuracy=0.98)
    write_identity(store, study.study_key, identity)
    assert space_of(study, store) == samples.SPACE
    assert [str(limit) for limit in limits_of(study, store)] == ["num_params <= 90000"]


def test_a_study_that_kept_no_space_has_none(store: MemoryStore) -> None:
    assert space_of(samples.searched(20), store) is None
    assert limits_of(samples.searched(20), store) == []


def test_a_teacher_that_was_not_measured_is_an_error() -> None:
    stages = tuple(replace(one, outputs={**one.outputs, "val_metrics": {}}) for one in samples.record().stages if one.name == "teacher")
    with pytest.raises(SearchError, match="the teacher has no accuracy on val"):
        teacher_accuracy(replace(samples.record(), stages=stages))


def test_another_choice_is_the_same_study_with_another_trial(store: MemoryStore, reporter: RecordingReporter) -> None:
    record = samples.record()
    assert choose(record, "trial 1", store=store, reporter=reporter) == replace(samples.study(), chosen=1)
    assert reporter.warnings == []
    choose(record, "best under 1 kB", store=store, reporter=reporter)
    assert "no finished trial is 'best under 1 kB'" in reporter.warnings[0]
