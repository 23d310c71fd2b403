from __future__ import annotations

from dataclasses import replace

import pytest

from foundry_ray.errors import ConfigError
from foundry_ray.search import segments
from foundry_ray.search.transfer import MAX_SUGGESTED, is_in
from foundry_ray.testing.search import OBJECTIVES, SPACE, SyntheticRunner, SyntheticStudy
from foundry_ray.testing.stores import Killed, MemoryStore, MortalStore
from foundry_ray.types import Objective, Param, SearchSpace, TrialState

LR, WIDTH = SPACE.params
WIDER = replace(SPACE, params=(replace(LR, low=1e-5, high=1e-1), replace(WIDTH, low=4, high=24)))


@pytest.fixture
def earlier(store: MemoryStore) -> SyntheticStudy:
    study = SyntheticStudy(store, study_key="earlier", sampler="random")
    study.run()
    return study


def _extending(store: MemoryStore, **keys: object) -> SyntheticStudy:
    return SyntheticStudy(store, study_key="later", extends=("earlier",), **keys)  # type: ignore[arg-type]


def test_equal_training_is_taken_over_and_not_done_again(store: MemoryStore, earlier: SyntheticStudy) -> None:
    later = _extending(store, space=WIDER, num_trials=24)
    trials = later.run()
    assert [trial.params for trial in trials[:16]] == [trial.params for trial in earlier.state.trials()]
    again = sum(later.runner.epochs_trained[trial.number] for trial in trials[:16])
    assert again == sum(trial.resource_used for trial in trials[:16]) - sum(trial.resource_used for trial in earlier.state.trials())
    assert sum(later.runner.num_measured[number] for number in range(16)) == 0


def test_an_adopted_trial_goes_on_from_its_own_checkpoint(store: MemoryStore, earlier: SyntheticStudy) -> None:
    later = _extending(store, num_trials=30)
    known = {trial.number: trial for trial in earlier.state.trials()}
    while (job := later.coordinator.next_job()) is not None and job.number >= 16:
        events = later.runner(job)
        while later.coordinator.observe(next(events)):
            pass
    assert job is not None
    assert (job.checkpoint, job.from_epoch) == (known[job.number].checkpoint, known[job.number].resource_used)


def test_a_trial_outside_of_the_new_space_stays_behind(store: MemoryStore, earlier: SyntheticStudy) -> None:
    narrow = replace(SPACE, params=(LR, replace(WIDTH, low=10, high=20)))
    later = _extending(store, space=narrow)
    wide = [trial.params for trial in earlier.state.trials() if trial.params["width"] >= 10]
    assert [trial.params for trial in later.state.trials()] == wide
    assert 0 < len(wide) < 16


def test_another_objective_needs_no_new_training(store: MemoryStore, earlier: SyntheticStudy) -> None:
    space = replace(SPACE, objectives=(OBJECTIVES[0], Objective(metric="num_params", mode="min")))
    later = _extending(store, space=space)
    assert len(later.run()) == 16
    assert not later.runner.num_measured


def test_a_trial_that_breaks_a_new_constraint_is_infeasible(store: MemoryStore, earlier: SyntheticStudy) -> None:
    later = _extending(store, space=replace(SPACE, constraints=("num_params <= 20000",)))
    states = {trial.state for trial in later.state.trials() if trial.values["num_params"] > 20_000}
    assert states == {TrialState.INFEASIBLE}
    assert "wanted <= 20000" in str(next(trial.error for trial in later.state.trials() if trial.state is TrialState.INFEASIBLE))


def test_of_other_training_the_front_is_tried_first(store: MemoryStore, earlier: SyntheticStudy) -> None:
    later = _extending(store, training="other", num_trials=20)
    suggested = [params for params, _ in later.state.suggestions]
    assert 0 < len(suggested) <= MAX_SUGGESTED
    trials = later.run()
    assert [dict(trial.params) for trial in trials[: len(suggested)]] == [dict(params) for params in suggested]
    assert {record.source for record in later.state.records.values()} == {"earlier", ""}
    assert all(later.runner.epochs_trained[trial.number] == trial.resource_used for trial in trials)


def test_a_scheduler_with_seats_is_told_nothing_of_adopted_trials(store: MemoryStore, earlier: SyntheticStudy) -> None:
    later = _extending(store, kind="hyperband", num_trials=30, sampler="random")
    trials = later.run()
    assert all(later.runner.epochs_trained[number] == 0 for number in range(16))
    assert [trial.bracket for trial in trials[16:25]] == [0] * 9


@pytest.mark.parametrize("is_done", [False, True])
def test_trials_are_adopted_once_wherever_the_first_driver_dies(store: MemoryStore, earlier: SyntheticStudy, is_done: bool) -> None:
    before = dict(store.objects)
    for dies_at in range(1, 500):  # how the journal is cut into objects hangs on the speed of its thread
        store.objects = dict(before)
        mortal = MortalStore(store, dies_at=dies_at, is_done=is_done)
        try:
            _extending(mortal)  # type: ignore[arg-type]
        except Killed:
            pass
        else:
            return
        _extending(store, driver="driver-2")
        kinds = [event.kind for event in segments.read(store, "studies/later/journal").events]
        assert kinds.count("adopt") == 16, f"died at operation {dies_at}"
    raise AssertionError("it never lived to the end")


def test_an_unknown_study_is_named(store: MemoryStore) -> None:
    with pytest.raises(ConfigError, match=r"search\.extends names earlier, but memory:// has no such study, wanted the key of one"):
        _extending(store)
    assert not any("journal" in key for key in store.objects), "nothing was begun"


def test_a_study_of_a_study_that_extends_takes_over_all(store: MemoryStore, earlier: SyntheticStudy) -> None:
    _extending(store, num_trials=20).run()
    third = SyntheticStudy(store, study_key="third", extends=("earlier", "later"), num_trials=40)
    assert len(third.state.records) == 20, "what both have is taken over once"


CONDITIONAL = SearchSpace(
    params=(
        Param(name="optimizer", kind="categorical", choices=("sgd", "adamw")),
        Param(name="momentum", kind="float", low=0.5, high=0.9, step=0.1, when={"optimizer": ("sgd",)}),
        Param(name="width", kind="int", low=4, high=8),
    ),
    relations=("width * momentum <= 6",),
)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"optimizer": "sgd", "momentum": 0.7, "width": 4}, True),
        ({"optimizer": "adamw", "width": 8}, True),
        ({"optimizer": "sgd", "momentum": 0.75, "width": 4}, False),
        ({"optimizer": "sgd", "momentum": 0.9, "width": 8}, False),
        ({"optimizer": "adamw", "momentum": 0.7, "width": 4}, False),
        ({"optimizer": "lion", "width": 4}, False),
        ({"optimizer": "adamw", "width": 9}, False),
        ({"optimizer": "adamw", "width": 4.0}, False),
        ({"optimizer": "adamw"}, False),
    ],
)
def test_what_lies_in_a_space(params: dict[str, object], expected: bool) -> None:
    assert is_in(CONDITIONAL, params) is expected  # type: ignore[arg-type]


def test_every_proposal_lies_in_its_space() -> None:
    trials = SyntheticStudy(MemoryStore(), num_trials=30, runner=SyntheticRunner(max_params=1.0)).run()
    assert all(is_in(SPACE, trial.params) for trial in trials)


def test_what_two_studies_found_is_suggested_once(store: MemoryStore, earlier: SyntheticStudy) -> None:
    SyntheticStudy(store, study_key="twin", sampler="random").run()
    later = SyntheticStudy(store, study_key="later", extends=("earlier", "twin"), training="other")
    suggested = [dict(params) for params, _ in later.state.suggestions]
    assert suggested
    assert all(suggested.count(one) == 1 for one in suggested)


def test_a_point_that_breaks_a_constraint_in_two_studies_is_taken_over_once(store: MemoryStore) -> None:
    coarse = replace(SPACE, params=(Param(name="lr", kind="categorical", choices=(0.001, 0.003)), WIDTH), constraints=("num_params <= 20000",))
    for study_key in ("earlier", "twin"):
        SyntheticStudy(store, study_key=study_key, space=coarse, sampler="grid", num_trials=10, runner=SyntheticRunner(max_params=20_000)).run()
    later = SyntheticStudy(
        store, study_key="later", extends=("earlier", "twin"), space=coarse, sampler="grid", num_trials=99, runner=SyntheticRunner(max_params=20_000)
    )
    points = [tuple(trial.params.items()) for trial in later.run()]
    assert any(trial.state is TrialState.INFEASIBLE for trial in later.state.trials())
    assert len(points) == len(set(points)) == 16, "and so the grid is not at its end before all of it was tried"


def test_a_trial_that_failed_is_not_taken_over(store: MemoryStore) -> None:
    first = SyntheticStudy(store, study_key="earlier", sampler="random", num_trials=2, max_failures=0)
    for error in ("", "ValueError: bad"):
        job = first.coordinator.next_job()
        assert job is not None
        events = first.runner(job)
        while first.coordinator.observe(next(events)):
            pass
        if error:
            first.coordinator.died(job.number, error)
    first.coordinator.close()
    assert [trial.state for trial in first.state.trials()] == [TrialState.WAITING, TrialState.FAILED]
    later = _extending(store)
    assert [trial.params for trial in later.state.trials()] == [first.state.records[0].trial.params]
