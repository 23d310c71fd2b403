"""Our sampler beside plain Optuna on seven complete tables: the regret that is left after 60 trials, with one worker and with four.

python -m benchmarks.search_regret           about 20 minutes, writes results
python -m benchmarks.search_regret --quick   two tables and 8 seeds; writes none

Ours goes through the product's coordinator and journal; four workers take the training times of the table, so that proposals are made while three
others are running. Plain Optuna is a study with its TPESampler, one trial after another; it begins with the ten random configurations with which ours
begins under the same seed, which makes the two a pair, and draws from a stream of its own from there on.

A search chooses the trial with the best loss that it saw. Its regret is that configuration's mean loss over the stored seeds, less the table's best,
as a share of what random search is left with on this table in the mean. A ratio is of the means over all tables and 100 seeds; its bound is the
95th percentile over 10,000 resamples of the seeds, in pairs and table by table.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import optuna

from benchmarks.record import Claim, Log, tell, work_folder
from benchmarks.search_table import driving, hpo_tables
from benchmarks.search_table.hpo_tables import HpoTable
from benchmarks.search_table.without_stopping import distribution
from foundry_ray.search.events import Event, Job
from foundry_ray.search.samplers import Sampler
from foundry_ray.testing.clock import FakeClock

Method = Literal["random", "ours", "ours_4_workers", "optuna"]
_METHODS: tuple[Method, ...] = ("random", "ours", "ours_4_workers", "optuna")
_NUM_TRIALS, _NUM_RANDOM = 60, 10
_NUM_SEEDS, _NUM_QUICK_SEEDS, _BLOCK = 100, 8, 4
_NUM_PROCESSES, _NUM_RESAMPLES = 2, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search."""

    table: str
    method: str
    seed: int
    regret: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The runs of some seeds on one table, which one process made."""

    runs: tuple[Run, ...]


def searched(table: HpoTable, *, kind: Literal["tpe", "random"], seed: int, num_workers: int) -> list[int]:
    """The configurations of our trials, in the order in which they were proposed."""
    clock, tried = FakeClock(), list[int]()
    sampler = Sampler(kind=kind, space=table.space, objectives=(hpo_tables.OBJECTIVE,), seed=seed)
    coordinator = driving.coordinator(table.space, sampler, scheduler=driving.TO_THE_END, num_trials=_NUM_TRIALS, seed=seed, clock=clock)
    running: list[tuple[float, int, Iterator[Event]]] = []
    while True:
        while len(running) < num_workers and (job := coordinator.next_job()) is not None:
            tried.append(table.configuration(job.params))
            events = _trial(job, tried[-1], table.observed(tried[-1], seed=seed))
            if coordinator.observe(next(events)):
                heapq.heappush(running, (clock.monotonic_s() + table.seconds_C[tried[-1]], job.number, events))
        if not running:
            coordinator.close()
            return tried
        due_s, _, events = heapq.heappop(running)
        clock.advance(due_s - clock.monotonic_s())
        coordinator.observe(next(events))


def _trial(job: Job, configuration: int, loss: float) -> Iterator[Event]:
    yield Event(kind="prepared", number=job.number, effective=str(configuration))
    values = {hpo_tables.OBJECTIVE.metric: loss}
    yield Event(kind="rung", number=job.number, epoch=job.to_epoch, values=values, curve=({"epoch": 1.0, **values},), checkpoint="none")


def searched_by_optuna(table: HpoTable, *, seed: int) -> list[int]:
    """The same with a study of Optuna."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=_NUM_RANDOM))
    ours = Sampler(kind="tpe", space=table.space, objectives=(hpo_tables.OBJECTIVE,), seed=seed)
    for number in range(_NUM_RANDOM):
        study.enqueue_trial(dict(ours.propose({}, number).params))
    tried: list[int] = []
    for _ in range(_NUM_TRIALS):
        trial = study.ask({param.name: distribution(param) for param in table.space.params})
        tried.append(table.configuration(trial.params))
        study.tell(trial, table.observed(tried[-1], seed=seed))
    return tried


def measure(name: str, method: Method, seed: int) -> Run:
    """One search and the regret of its choice."""
    table = hpo_tables.load(name)
    if method == "optuna":
        tried = searched_by_optuna(table, seed=seed)
    else:
        tried = searched(table, kind="random" if method == "random" else "tpe", seed=seed, num_workers=4 if method == "ours_4_workers" else 1)
    chosen = min(tried, key=lambda configuration: table.observed(configuration, seed=seed))
    return Run(table=name, method=method, seed=seed, regret=table.regret(chosen))


def _measured(task: tuple[str, tuple[int, ...]]) -> list[Run]:
    """All methods on a block of seeds."""
    name, seeds = task
    return [measure(name, method, seed) for seed in seeds for method in _METHODS]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Three bounds and a count."""
    by_table = {name: _shares([run for run in runs if run.table == name]) for name in dict.fromkeys(run.table for run in runs)}
    means = {f"{name}_{method}": float(shares_S.mean()) for name, shares in by_table.items() for method, shares_S in shares.items()}
    num_seeds = len(next(iter(by_table.values()))["ours"])
    evidence = [
        {"table": name, "method": method, "regrets": [round(share, 5) for share in shares_S.tolist()]}
        for name, shares in by_table.items()
        for method, shares_S in shares.items()
    ]
    what = f"{len(by_table)} tables, {_NUM_TRIALS} trials, {num_seeds} seeds: upper 95 % bound of the ratio of mean regrets,"
    compared: list[tuple[str, str, Method, Method]] = [
        ("regret_vs_optuna_bound", "our TPE over plain Optuna's", "ours", "optuna"),
        ("regret_four_workers_vs_optuna_bound", "our TPE with four workers over plain Optuna's with one", "ours_4_workers", "optuna"),
        ("regret_four_workers_bound", "our TPE with four workers over ours with one", "ours_4_workers", "ours"),
    ]
    return [
        *(_bound(name, f"{what} {claim}", by_table, mine, other, evidence, means) for name, claim, mine, other in compared),
        Claim(
            name="regret_better_than_random_tables",
            claim=f"tables of {len(by_table)} on which our TPE is left with less regret than random search, {_NUM_TRIALS} trials, {num_seeds} seeds",
            value=float(sum(shares["ours"].mean() < 1 for shares in by_table.values())),
            unit="tables",
            runs=evidence,
            peers=means,
        ),
    ]


def _shares(runs: Sequence[Run]) -> dict[Method, np.ndarray]:
    """By method, the regrets of the seeds in order, as shares of random search's mean on this table."""
    ordered = sorted(runs, key=lambda run: run.seed)
    of_random = statistics.mean(run.regret for run in ordered if run.method == "random")
    return {method: np.array([run.regret for run in ordered if run.method == method]) / of_random for method in _METHODS}


def _bound(
    name: str,
    claim: str,
    by_table: Mapping[str, Mapping[Method, np.ndarray]],
    ours: Method,
    other: Method,
    runs: Sequence[object],
    means: Mapping[str, float],
) -> Claim:
    generator = np.random.default_rng(0)
    above_B, below_B = np.zeros(_NUM_RESAMPLES), np.zeros(_NUM_RESAMPLES)
    for shares in by_table.values():
        drawn_BS = generator.integers(len(shares[ours]), size=(_NUM_RESAMPLES, len(shares[ours])))
        above_B += shares[ours][drawn_BS].mean(axis=1)
        below_B += shares[other][drawn_BS].mean(axis=1)
    ratio = float(sum(shares[ours].mean() for shares in by_table.values()) / sum(shares[other].mean() for shares in by_table.values()))
    low, high = np.quantile(above_B / below_B, [0.05, 0.95])
    return Claim(name=name, claim=claim, value=float(high), unit="x", runs=runs, peers={"ratio": ratio, "lower_95_bound": float(low), **means})


def _runs(log: Log[Block], *, is_quick: bool) -> list[Run]:
    """All runs; those that are not in the log yet are made, and written there."""
    done = {(run.table, run.seed) for block in log.rows for run in block.runs}
    names, num_seeds = (hpo_tables.NAMES[:2], _NUM_QUICK_SEEDS) if is_quick else (hpo_tables.NAMES, _NUM_SEEDS)
    blocks = [(name, tuple(range(first, first + _BLOCK))) for name in names for first in range(0, num_seeds, _BLOCK)]
    hpo_tables.install()
    with multiprocessing.get_context("spawn").Pool(_NUM_PROCESSES) as pool:
        for found in pool.imap_unordered(_measured, [(name, seeds) for name, seeds in blocks if (name, seeds[0]) not in done]):
            log.add(Block(runs=tuple(found)))
            print(f"{found[0].table}, seeds {found[0].seed} to {found[-1].seed}", flush=True)
    return [run for block in log.rows for run in block.runs]


def main(arguments: Sequence[str] = ()) -> None:
    """Make the runs that are missing; write the claims where all were made."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two tables, few seeds, no results")
    options = parser.parse_args(arguments)
    log = Log.of(work_folder("search_regret") / ("look.jsonl" if options.quick else "runs.jsonl"), Block, is_new=options.quick)
    tell(claims(_runs(log, is_quick=options.quick)), is_quick=options.quick)
    if not options.quick:
        log.path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
