from __future__ import annotations

import statistics
from dataclasses import replace

import optuna
import pytest

from foundry_ray.errors import SearchSpaceError
from foundry_ray.search.samplers import Kind
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Param, SearchSpace, TrialState
from tests.unit.search import _sampling as small

KINDS: tuple[Kind, ...] = ("tpe", "bohb", "gp", "nsga2", "qmc", "random")


@pytest.mark.parametrize("kind", [*KINDS, "cmaes"])
def test_a_proposal_is_a_function_of_records_seed_and_number(kind: Kind) -> None:
    space = small.NUMBERS if kind == "cmaes" else replace(small.PLAIN, objectives=(small.ACCURACY,))
    records = small.finished(small.sampler("random", space), 12)
    first = small.sampler(kind, space).propose(records, 12)
    assert first == small.sampler(kind, space).propose(records, 12)
    assert first != small.sampler(kind, space, seed=1).propose(records, 12)
    assert first != small.sampler(kind, space).propose(records, 13)


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_keep_the_space(kind: Kind) -> None:
    one = small.sampler(kind, small.CONDITIONAL)
    for record in small.finished(one, 11 if kind == "gp" else 30).values():
        params = record.trial.params
        assert ("temperature" in params) == (params["bits"] == 8)
        assert params["width"] in range(6, 21, 2)
        assert isinstance(params["width"], int)
        assert params["ratio"] in [round(0.05 * step, 12) for step in range(13)]


@pytest.mark.parametrize(("kind", "num_trials"), [("tpe", 60), ("bohb", 60), ("nsga2", 160), ("cmaes", 120)])
def test_a_sampler_learns_where_the_good_trials_are(kind: Kind, num_trials: int) -> None:
    records = small.finished(small.sampler(kind, small.NUMBERS), num_trials)
    errors = [1 - record.by_rung[0]["accuracy"] for record in records.values()]
    assert statistics.median(errors[-8:]) < 0.6 * statistics.median(errors[:10])


@pytest.mark.parametrize("kind", ["tpe", "gp", "qmc", "random", "nsga2"])
def test_proposals_keep_the_relations(kind: Kind) -> None:
    space = replace(small.PLAIN, objectives=(small.ACCURACY,), relations=("width * depth <= 64", "alpha + ratio <= 1"))
    for record in small.finished(small.sampler(kind, space), 11 if kind == "gp" else 40).values():
        params = record.trial.params
        assert int(params["width"]) * int(params["depth"]) <= 64
        assert float(params["alpha"]) + float(params["ratio"]) <= 1


def test_a_proposal_that_keeps_the_relations_is_not_drawn_again() -> None:
    free, bound = small.sampler("random"), small.sampler("random", replace(small.PLAIN, relations=("width <= 12",)))
    for number in range(20):
        expected, got = free.propose({}, number).params, bound.propose({}, number).params
        assert (got == expected) == (int(expected["width"]) <= 12)


def test_relations_that_nothing_keeps_are_refused_by_name() -> None:
    space = replace(small.NUMBERS, relations=("width * depth <= 3",))
    with pytest.raises(SearchSpaceError, match=r"none of 2,000 points drawn for trial 0 keeps 'width \* depth <= 3'"):
        small.sampler("random", space).propose({}, 0)


@pytest.mark.parametrize("kind", ["tpe", "random", "qmc", "nsga2"])
def test_no_point_is_proposed_twice_while_there_are_others(kind: Kind) -> None:
    space = SearchSpace(params=(small.BITS, small.WIDTH), objectives=(small.ACCURACY, small.SIZE))
    one, records = small.sampler(kind, space), dict[int, TrialRecord]()
    for number in range(14):
        proposal = one.propose(records, number)
        values = small.worth({"ratio": 0.3, **proposal.params})
        records[number] = small.record(number, proposal.params, values, attrs=proposal.attrs)
    assert len({frozenset(record.trial.params.items()) for record in records.values()}) >= 13, "there are 16 points"


def test_a_point_is_repeated_when_all_are_tried() -> None:
    space = SearchSpace(params=(small.BITS,), objectives=(small.ACCURACY,))
    records = {number: small.record(number, {"bits": bits}, {"accuracy": 0.5}) for number, bits in enumerate((8, 32))}
    assert small.sampler("random", space).propose(records, 2).params["bits"] in (8, 32)


@pytest.mark.parametrize("kind", [*KINDS, "cmaes"])
def test_proposals_of_one_batch_differ(kind: Kind) -> None:
    space = small.NUMBERS if kind == "cmaes" else small.PLAIN
    one = small.sampler(kind, space, (small.ACCURACY,))
    records = small.finished(small.sampler("random", space, (small.ACCURACY,)), 21)
    size = 2 if kind == "gp" else 8
    for number in range(21, 21 + size):
        proposal = one.propose(records, number)
        records[number] = small.record(number, proposal.params, state=TrialState.RUNNING, attrs=proposal.attrs)
    assert len({frozenset(records[number].trial.params.items()) for number in range(21, 21 + size)}) == size


def test_what_runs_is_no_reason_for_tpe_to_keep_away() -> None:
    space = SearchSpace(params=(small.ALPHA,), objectives=(small.ACCURACY,))
    grid = [0.3 + 0.65 * step / 19 for step in range(20)]
    done = {number: small.record(number, {"alpha": alpha}, {"accuracy": -abs(alpha - 0.6)}) for number, alpha in enumerate(grid)}
    running = {number: small.record(number, {"alpha": 0.6}, state=TrialState.RUNNING) for number in range(20, 40)}
    alone = [small.sampler("tpe", space, seed=seed).propose(done, 40).params for seed in range(20)]
    beside = [small.sampler("tpe", space, seed=seed).propose(done | running, 40).params for seed in range(20)]
    assert beside == alone


def test_a_third_of_bohbs_proposals_is_drawn_evenly() -> None:
    records = small.finished(small.sampler("random"), 30)
    evenly = [small.sampler("random").propose(records, number) for number in range(30, 90)]
    proposed = [small.sampler("bohb").propose(records, number) for number in range(30, 90)]
    assert 12 <= sum(one == other for one, other in zip(proposed, evenly, strict=True)) <= 28


def test_an_ask_makes_only_those_trials_anew_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    one, records = small.sampler("tpe"), small.finished(small.sampler("random"), 50)
    one.propose(records, 50)
    made: list[int] = []
    genuine = optuna.trial.FrozenTrial.__init__
    monkeypatch.setattr(
        optuna.trial.FrozenTrial, "__init__", lambda self, number, *args, **kwargs: made.append(number) or genuine(self, number, *args, **kwargs)
    )
    records[7] = small.record(7, records[7].trial.params, small.worth({**records[7].trial.params, "alpha": 0.9}))
    one.propose(records, 50)
    assert [number for number in made if number >= 0] == [7]


def test_one_sampler_may_be_asked_about_another_study() -> None:
    one = small.sampler("tpe")
    one.propose(small.finished(small.sampler("random"), 30), 30)
    assert one.propose({}, 0) == small.sampler("tpe").propose({}, 0)


def test_only_a_grid_has_an_end() -> None:
    steps = SearchSpace(params=(small.BITS, Param(name="width", kind="int", low=1, high=3)), objectives=(small.ACCURACY,))
    assert small.sampler("grid", steps).size == 6
    assert small.sampler("random", steps).size is None
