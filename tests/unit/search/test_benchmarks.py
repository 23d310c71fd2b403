"""The rules by which the benchmarks of the search compare methods: who may propose what, how epochs are counted, what a bound is of."""

from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks import search_moasha, search_regret
from benchmarks.search_moasha import Run
from benchmarks.search_table import ours, without_stopping
from benchmarks.search_table.candidates import Candidates
from benchmarks.search_table.points import synthetic
from benchmarks.search_table.progress import epochs_until, steps, volume_at
from benchmarks.search_table.table import Table, space
from foundry_ray.search import pareto


@pytest.fixture(scope="module")
def table() -> Table:
    return synthetic(space(), num_rows=40, seed=0)


def test_a_proposal_becomes_the_nearest_row_and_no_row_is_proposed_twice(table: Table) -> None:
    candidates = Candidates(space(), table.rows)
    near = {**table.rows[7].params, "lr": float(table.rows[7].params["lr"]) * 1.01}
    assert candidates.number(candidates.take(near)) == 7
    assert len({candidates.number(candidates.take(near)) for _ in range(39)} - {7}) == 39
    assert candidates.num_free == 0


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_student_that_goes_on_costs_only_its_further_epochs(table: Table, sampler: str) -> None:
    seen = ours.trained(table, space(), sampler=sampler, seed=0, max_epochs=90)
    assert len(seen) == len(set(seen)), "no epoch of a row is trained twice"
    for row in {row for row, _ in seen}:
        assert [epoch for one, epoch in seen if one == row] in ([1], [1, 2, 3], list(range(1, 10)))


@pytest.mark.parametrize("kind", ["random", "tpe", "nsga2"])
def test_who_stops_nobody_trains_each_student_to_its_end(table: Table, kind: str) -> None:
    seen = without_stopping.trained(table, space(), kind=kind, seed=0, max_epochs=180)
    assert [epoch for _, epoch in seen] == list(range(1, 10)) * 20
    assert len({row for row, _ in seen}) == 20


def test_the_volume_is_of_all_that_was_seen_stopped_students_included(table: Table) -> None:
    source = random.Random(0)
    seen = [(row, epoch) for row in source.sample(range(40), 12) for epoch in range(1, source.choice((1, 3, 9)) + 1)]
    grown = steps(table, seen)
    for spent in (1, len(seen) // 2, len(seen)):
        points = [table.places[row][epoch - 1] for row, epoch in seen[:spent]]
        assert volume_at(grown, spent) == pytest.approx(pareto.hypervolume(points, (1.0, 1.0, 1.0)))
        first = next(epochs for epochs in range(1, len(seen) + 1) if volume_at(grown, epochs) >= volume_at(grown, spent))
        assert epochs_until(grown, volume_at(grown, spent)) == first
    assert epochs_until(grown, 1.1) is None


def test_a_ratio_is_of_the_epochs_until_the_volume_that_the_peer_has_at_its_end() -> None:
    ends = {"random": 0.5, "nsga2": 0.6, "tpe": 0.8}
    grown = {
        "moasha": ((90, 0.5), (108, 0.6), (216, 0.8)),
        "moasha_tpe": ((54, 0.5), (60, 0.8)),
        "syne_tune": ((360, 0.5),),
        "syne_tune_ranked": ((120, 0.5),),
    }
    runs = [
        Run(method=method, seed=seed, grown=grown.get(method, ((500, ends.get(method, 0.0)), (541, 0.9))))
        for method in search_moasha._METHODS
        for seed in range(3)
    ]
    found = {claim.name: claim for claim in search_moasha.claims(runs)}
    wanted = {"moasha_epochs_ratio": 90 / 540, "moasha_vs_nsga2_ratio": 0.2, "moasha_vs_tpe_ratio": 0.4, "moasha_vs_syne_tune_ratio": 0.25}
    assert {name: claim.value for name, claim in found.items()} == pytest.approx(wanted)
    assert found["moasha_epochs_ratio"].peers["ratio_to_syne_tune_ranked"] == 0.75


def _regrets(**by_method: list[float]) -> list[search_regret.Run]:
    """Of one table; random search has regret 2 everywhere."""
    count = len(next(iter(by_method.values())))
    everyone = {**{method: [2.0] * count for method in search_regret._METHODS}, **by_method}
    return [search_regret.Run(table="t", method=method, seed=seed, regret=one) for method, all_ in everyone.items() for seed, one in enumerate(all_)]


def test_the_bound_of_a_ratio_keeps_the_pairs_of_seeds() -> None:
    spread = np.random.default_rng(0).exponential(size=100).tolist()
    bound, of_four_by_optuna, of_four, better = search_regret.claims(
        _regrets(optuna=spread, ours=[1.05 * one for one in spread], ours_4_workers=spread[::-1])
    )
    assert bound.value == pytest.approx(1.05), "where all pairs have one ratio, it is the bound"
    assert of_four.peers["ratio"] == pytest.approx(1 / 1.05)
    assert of_four.value > of_four.peers["ratio"] + 0.05, "and where the pairs differ, chance counts"
    assert of_four_by_optuna.peers["ratio"] == pytest.approx(1)
    assert better.value == 1


def test_a_table_counts_where_the_mean_regret_is_below_that_of_random_search() -> None:
    *_, better = search_regret.claims(_regrets(ours=[1.0, 3.1], optuna=[1.0, 1.0], ours_4_workers=[1.0, 1.0]))
    assert better.value == 0
