"""Which parameters mattered, and where nothing can be said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foundry_ray.search.importance import Importance, importances, that_matter
from foundry_ray.testing import samples
from foundry_ray.types import StudyResult


@pytest.fixture(scope="module")
def study() -> StudyResult:
    return samples.searched(120)


@pytest.fixture(scope="module")
def found(study: StudyResult) -> dict[str, Importance]:
    return {one.metric: one for one in importances(study, samples.SPACE)}


def test_each_objective_has_the_parameter_that_makes_it(found: dict[str, Importance]) -> None:
    assert [next(iter(one.shares)) for one in found.values()] == ["lr", "width", "width"]
    assert all(sum(one.shares.values()) == pytest.approx(1) for one in found.values())


def test_a_parameter_that_only_some_trials_have_is_among_them(found: dict[str, Importance]) -> None:
    assert set(found["accuracy"].shares) == {"lr", "width", "optimizer", "momentum"}


def test_accuracies_are_compared_after_one_epoch_and_the_rest_in_all_trials(study: StudyResult, found: dict[str, Importance]) -> None:
    assert (found["accuracy"].epoch, found["accuracy"].num_trials) == (9, sum(trial.resource_used == 9 for trial in study.trials))
    assert (found["size_bytes"].epoch, found["size_bytes"].num_trials) == (0, 120)


def test_where_few_were_trained_to_the_end_all_are_compared_where_the_first_were(study: StudyResult) -> None:
    accuracy = importances(samples.searched(40), samples.SPACE)[0]
    assert (accuracy.epoch, accuracy.num_trials) == (1, sum(trial.resource_used > 0 for trial in samples.searched(40).trials))


def test_few_trials_say_nothing() -> None:
    few = replace(samples.searched(40), trials=samples.searched(40).trials[:4])
    assert {one.why_not for one in importances(few, samples.SPACE)} == {"4 trials compare, wanted 10 or more"}
    assert that_matter(importances(few, samples.SPACE)) == ()


def test_equal_values_say_nothing(study: StudyResult) -> None:
    equal = tuple(replace(trial, values={**trial.values, "size_bytes": 1.0}) for trial in study.trials)
    size = importances(replace(study, trials=equal), samples.SPACE)[2]
    assert size.why_not == "the best 12 of 120 trials are no better than the rest"


def test_without_the_space_the_values_tell_the_ranges(study: StudyResult) -> None:
    assert [next(iter(one.shares)) for one in importances(study, None)] == ["lr", "width", "width"]


def test_what_matters_for_any_objective_comes_first(found: dict[str, Importance]) -> None:
    assert set(that_matter(tuple(found.values()), num=2)) == {"lr", "width"}
