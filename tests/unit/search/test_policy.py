from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_ray.errors import ConfigError, NoFeasibleTrial
from foundry_ray.search import constraints, pareto
from foundry_ray.search.policy import Choice, Policy, choose_again, parse_policy
from foundry_ray.types import CompressionRecipe, Objective, StudyResult, Trial, TrialState
from tests.unit.search import _naive as naive

OBJECTIVES = (Objective(metric="accuracy", mode="max"), Objective(metric="latency_p50_ms", mode="min"), Objective(metric="size_bytes", mode="min"))


def _trial(number: int, accuracy: float, latency_ms: float, size_bytes: float = 1e5, *, state: TrialState = TrialState.COMPLETE) -> Trial:
    values = {"accuracy": accuracy, "latency_p50_ms": latency_ms, "latency_p95_ms": 2 * latency_ms, "size_bytes": size_bytes}
    return Trial(trial_id=str(number), number=number, params={}, recipe=CompressionRecipe(), state=state, values=values, resource_used=3)


def _study(*trials: Trial) -> StudyResult:
    front = pareto.front([pareto.losses(trial.values, OBJECTIVES) for trial in trials])
    return StudyResult(
        study_name="study",
        study_key="s" * 32,
        trials=trials,
        objectives=OBJECTIVES,
        pareto_front=tuple(trials[index].number for index in front),
        chosen=0,
        num_by_state={},
        worker_seconds=1.0,
    )


def _again(text: str, *trials: Trial, limits: tuple[str, ...] = ()) -> Choice:
    parsed = [constraints.parse(one, where="here") for one in limits]
    return choose_again(_study(*trials), parse_policy(text), parsed, teacher_accuracy=0.98)


def _choose(text: str, *trials: Trial) -> Choice | None:
    return parse_policy(text).choose(trials, OBJECTIVES, teacher_accuracy=0.98)


def test_the_fastest_within_the_limit_is_chosen() -> None:
    trials = (_trial(0, 0.98, 0.9), _trial(1, 0.97, 0.4), _trial(2, 0.96, 0.1))
    assert _choose("fastest within 1.0 point of the teacher", *trials) == Choice(number=1)


def test_equally_fast_trials_are_told_apart_by_accuracy() -> None:
    trials = (_trial(0, 0.971, 0.041), _trial(1, 0.979, 0.099))
    assert _choose("fastest within 1 points of the teacher", *trials) == Choice(number=1)


def test_where_nobody_is_within_the_limit_the_most_accurate_is_chosen_with_a_warning() -> None:
    choice = _choose("fastest within 1.0 point of the teacher", _trial(0, 0.94, 0.9), _trial(1, 0.95, 0.9), _trial(2, 0.6, 0.1))
    assert choice is not None
    assert choice.number == 1
    assert "accuracy 0.9500 against the teacher's 0.9800" in choice.warning


def test_the_most_accurate_under_both_limits_is_chosen() -> None:
    trials = (_trial(0, 0.99, 6.0), _trial(1, 0.98, 4.0, 2e6), _trial(2, 0.97, 4.0, 0.9e6), _trial(3, 0.96, 1.0))
    assert _choose("best under 5 ms and 1 MB", *trials) == Choice(number=2)


def test_the_smallest_within_the_limit_is_chosen() -> None:
    trials = (_trial(0, 0.98, 0.1, 9e5), _trial(1, 0.975, 0.9, 2e5), _trial(2, 0.9, 0.1, 1e5))
    assert _choose("smallest within 0.5 point of the teacher", *trials) == Choice(number=1)


def test_the_knee_is_nearest_to_the_best_of_everything() -> None:
    trials = (_trial(0, 0.99, 9.0, 9e5), _trial(1, 0.97, 1.0, 2e5), _trial(2, 0.5, 0.1, 1e5))
    assert _choose("knee", *trials) == Choice(number=1)


def test_without_trials_there_is_no_choice() -> None:
    assert _choose("knee") is None


def test_a_limit_on_p95_is_held_against_p95() -> None:
    assert _choose("best under 5 ms p95", _trial(0, 0.99, 3.0), _trial(1, 0.97, 2.5)) == Choice(number=1)


def test_a_limit_may_stand_beside_the_distance_to_the_teacher() -> None:
    trials = (_trial(0, 0.98, 0.2, 2e6), _trial(1, 0.975, 0.5, 0.9e6), _trial(2, 0.9, 0.1, 1e5))
    assert _choose("fastest within 1 point of the teacher and under 1 MB", *trials) == Choice(number=1)


def test_the_knee_may_have_limits_too() -> None:
    trials = (_trial(0, 0.99, 9.0, 9e5), _trial(1, 0.97, 1.0, 2e5), _trial(2, 0.5, 0.1, 1e5))
    assert _choose("knee under 150 kB", *trials) == Choice(number=2)


def test_the_most_accurate_is_chosen_whatever_it_costs() -> None:
    assert _choose("most accurate", _trial(0, 0.98, 0.1), _trial(1, 0.99, 90.0, 9e9)) == Choice(number=1)


@pytest.mark.parametrize(("unit", "metric", "limit"), [("2M params", "num_params", 2e6), ("3 kMACs", "num_macs", 3e3), ("4 kB", "size_bytes", 4e3)])
def test_limits_are_read_with_their_units(unit: str, metric: str, limit: float) -> None:
    assert parse_policy(f"best under {unit}") == Policy(kind="best", text=f"best under {unit}", limits={metric: limit})


def test_a_study_on_p95_is_fastest_by_p95() -> None:
    slow_tail, even = _trial(0, 0.98, 0.2), _trial(1, 0.98, 0.4)
    slow_tail = replace(slow_tail, values={**slow_tail.values, "latency_p95_ms": 9.0})
    objectives = (OBJECTIVES[0], Objective(metric="latency_p95_ms", mode="min"))
    policy = parse_policy("fastest within 1 point of the teacher")
    assert policy.choose([slow_tail, even], objectives, teacher_accuracy=0.98) == Choice(number=1)


def test_who_is_lost_or_marked_dominated_is_never_chosen() -> None:
    lost = (_trial(0, 0.99, 0.1, state=TrialState.FAILED), _trial(1, 0.99, 0.1, state=TrialState.INFEASIBLE))
    marked = replace(_trial(2, 0.99, 0.1), dominated="p50 is 0.1 ms, the teacher's 0.1 ms")
    assert _choose("most accurate", *lost, marked, _trial(3, 0.5, 9.0)) == Choice(number=3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(90, 98), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12),
    st.sampled_from(["fastest within 2 points of the teacher", "smallest under 0.5 MB", "best under 0.4 ms", "most accurate", "knee"]),
)
def test_no_trial_that_keeps_the_limits_dominates_the_chosen_one(points: list[tuple[int, int, int]], text: str) -> None:
    trials = [_trial(number, a / 100, 0.1 * b, 1e5 * c) for number, (a, b, c) in enumerate(points)]
    policy = parse_policy(text)
    choice = policy.choose(trials, OBJECTIVES, teacher_accuracy=0.98)
    assert choice is not None
    losses = {trial.number: pareto.losses(trial.values, OBJECTIVES) for trial in trials}
    within = [trial.number for trial in trials if policy.choose([trial], OBJECTIVES, teacher_accuracy=0.98) == Choice(number=trial.number)]
    assert not any(naive.dominates(losses[number], losses[choice.number]) for number in within)


def test_a_finished_trial_is_chosen_before_a_stopped_one() -> None:
    stopped = _trial(0, 0.975, 0.1, state=TrialState.STOPPED)
    assert _again("fastest within 1 point of the teacher", stopped, _trial(1, 0.98, 0.5)) == Choice(number=1)


def test_a_stopped_member_of_the_front_is_chosen_where_no_finished_trial_will_do() -> None:
    choice = _again("best under 0.2 ms", _trial(0, 0.975, 0.1, state=TrialState.STOPPED), _trial(1, 0.98, 0.5))
    assert choice == Choice(number=0, warning="trial 0 was stopped after 3 epochs, and is judged by what it was then.")


def test_who_breaks_a_constraint_is_not_chosen_again() -> None:
    assert _again("most accurate", _trial(0, 0.99, 0.5, 9e6), _trial(1, 0.9, 0.5), limits=("size_bytes <= 1e6",)) == Choice(number=1)
    with pytest.raises(NoFeasibleTrial, match="none of the 1 trials of study can be chosen"):
        _again("most accurate", _trial(0, 0.99, 0.5, 9e6), limits=("size_bytes <= 1e6",))


def test_a_trial_is_chosen_by_its_number() -> None:
    trials = (_trial(0, 0.99, 0.5), _trial(1, 0.9, 0.1, state=TrialState.STOPPED))
    assert _again("trial 0", *trials) == Choice(number=0)
    assert "stopped after 3 epochs" in _again("trial 1", *trials).warning


@pytest.mark.parametrize(("number", "why"), [(9, "the study has the trials 0 to 1"), (1, "it is infeasible: too large")])
def test_a_number_that_cannot_be_chosen_says_why_and_names_the_front(number: int, why: str) -> None:
    broken = replace(_trial(1, 0.99, 0.1, state=TrialState.INFEASIBLE), error="too large.")
    with pytest.raises(ConfigError, match=f"trial {number} cannot be chosen: {why}; wanted .* or one of the front:"):
        _again(f"trial {number}", _trial(0, 0.99, 0.5), broken)


@pytest.mark.parametrize(
    "text",
    [
        "quickest",
        "fastest",
        "best",
        "fastest within 1 point",
        "best under 5 s",
        "best under 5 ms and 6 ms",
        "best under 0 ms",
        "",
        "knee under",
        "trial",
    ],
)
def test_another_policy_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.choose is") as caught:
        parse_policy(text)
    assert "fastest within 1.0 point of the teacher" in caught.value.hint
