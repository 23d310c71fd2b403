"""MO-ASHA on a table of real learning curves, beside searches that stop nobody and beside Syne Tune's: epochs until as good a front is known.

python -m benchmarks.search_moasha           about 4 minutes, writes results
python -m benchmarks.search_moasha --quick   a synthetic table and 6 seeds; writes none

A search draws from the rows of `tables/fashion_students.json` (`search_curves` makes it). All see the same three losses, error, log latency and
log bytes, each as a share of the table's range; each proposal becomes the nearest row that was not tried yet, for all methods alike. One worker;
an epoch of training costs one, and a student that goes on does so from where it stopped, as in arXiv 2106.12639. What counts is the hypervolume up
to the table's worst values of everything seen so far: each epoch's error counts, also that of students who were stopped.

    random        60 configurations x 9 epochs: the baseline
    nsga2, tpe    Optuna's, stopping nobody, 60 configurations x 9 epochs
    moasha        ours, rungs 1/3/9, random proposals;  moasha_tpe: proposals of our TPE, beside it
    syne_tune     Syne Tune's MOASHA as it is, rungs 1/3/9, random proposals;  syne_tune_ranked: with its order of trials mended

What is to be reached is what a method that stops nobody has at the end of its 540 epochs, the median of 50 seeds, and a ratio is of the median of the
epochs that MO-ASHA needs for it to those 540. Syne Tune's and ours are compared by the epochs that they need for the baseline's hypervolume; those of
all others stand beside them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from benchmarks.record import Claim, Log, tell, work_folder
from benchmarks.search_table import ours, syne_tune, without_stopping
from benchmarks.search_table.points import synthetic
from benchmarks.search_table.progress import epochs_until, steps, volume_at
from benchmarks.search_table.table import FASHION, Table, load, space

Method = Literal["random", "nsga2", "tpe", "moasha", "moasha_tpe", "syne_tune", "syne_tune_ranked"]
_METHODS: tuple[Method, ...] = ("random", "nsga2", "tpe", "moasha", "moasha_tpe", "syne_tune", "syne_tune_ranked")
_BUDGET = 60 * 9
_MAX_EPOCHS = 2 * _BUDGET
_NUM_SEEDS, _NUM_QUICK_SEEDS = 50, 6
_NUM_PROCESSES = 2
_NUM_SYNTHETIC = 216


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search: (epochs spent, hypervolume) whenever the volume grew."""

    method: Method
    seed: int
    grown: tuple[tuple[int, float], ...]


@cache
def _table(*, is_quick: bool) -> Table:
    return synthetic(space(), num_rows=_NUM_SYNTHETIC, seed=0) if is_quick else load(FASHION)


def measure(method: Method, seed: int, *, is_quick: bool) -> Run:
    """One search to the end of its epochs."""
    table, points = _table(is_quick=is_quick), space()
    if method == "moasha" or method == "moasha_tpe":
        seen = ours.trained(table, points, sampler="random" if method == "moasha" else "tpe", seed=seed, max_epochs=_MAX_EPOCHS)
    elif method == "syne_tune" or method == "syne_tune_ranked":
        seen = syne_tune.trained(table, points, ranked=method == "syne_tune_ranked", seed=seed, max_epochs=_MAX_EPOCHS)
    else:
        seen = without_stopping.trained(table, points, kind=method, seed=seed, max_epochs=_MAX_EPOCHS)
    return Run(method=method, seed=seed, grown=tuple((spent, round(volume, 6)) for spent, volume in steps(table, seen)))


def _measured(task: tuple[Method, int, bool]) -> Run:
    method, seed, is_quick = task
    return measure(method, seed, is_quick=is_quick)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Ratios of epochs to the same hypervolume."""
    by_method = {method: [run for run in runs if run.method == method] for method in _METHODS}
    volumes = {peer: statistics.median(volume_at(run.grown, _BUDGET) for run in by_method[peer]) for peer in ("random", "nsga2", "tpe")}
    until = {
        (method, peer): _quartiles(by_method[method], volumes[peer])
        for peer in volumes
        for method in (_METHODS if peer == "random" else ("moasha", "moasha_tpe"))
    }
    seen = {f"{method}_epochs_to_{peer}s_volume_{name}": value for (method, peer), found in until.items() for name, value in found.items()}
    peers = {**seen, **{f"{peer}_volume": volume for peer, volume in volumes.items()}}
    evidence = [_summary(run, volumes) for run in runs]
    theirs = {method: until[method, "random"]["median"] for method in ("syne_tune", "syne_tune_ranked")}
    peers["ratio_to_syne_tune_ranked"] = until["moasha", "random"]["median"] / theirs["syne_tune_ranked"]
    asked: list[tuple[str, Method, str, float, str]] = [
        ("moasha_epochs_ratio", "moasha", "random", float(_BUDGET), "MO-ASHA with random proposals, to the volume of 60 at random x 9 epochs"),
        (
            "moasha_vs_nsga2_ratio",
            "moasha",
            "nsga2",
            float(_BUDGET),
            "MO-ASHA with random proposals, to the volume of Optuna's NSGA-II, 60 x 9 epochs",
        ),
        ("moasha_vs_tpe_ratio", "moasha", "tpe", float(_BUDGET), "MO-ASHA with random proposals, to the volume of Optuna's TPE, 60 x 9 epochs"),
        (
            "moasha_vs_syne_tune_ratio",
            "moasha",
            "random",
            theirs["syne_tune"],
            f"MO-ASHA over that of Syne Tune {syne_tune.VERSION}, random proposals",
        ),
    ]
    what = f"{len(by_method['moasha'])} seeds on a table of real students, share of the epochs:"
    return [
        Claim(name=name, claim=f"{what} {claim}", value=until[ours, peer]["median"] / other, unit="x", runs=evidence, peers=peers)
        for name, ours, peer, other, claim in asked
    ]


def _quartiles(runs: Sequence[Run], wanted: float) -> dict[str, float]:
    """Of the epochs; a search that never came there counts with twice the epochs that it was given, which moves no median of those that mostly do."""
    epochs = [float(epochs_until(run.grown, wanted) or 2 * _MAX_EPOCHS) for run in runs]
    low, middle, high = statistics.quantiles(epochs, n=4, method="inclusive")
    return {"median": middle, "q25": low, "q75": high}


def _summary(run: Run, wanted: Mapping[str, float]) -> dict[str, object]:
    until = {f"epochs_to_{peer}s_volume": epochs_until(run.grown, volume) for peer, volume in wanted.items()}
    return {"method": run.method, "seed": run.seed, "volume_at_540": volume_at(run.grown, _BUDGET), **until}


def _runs(log: Log[Run], *, is_quick: bool) -> list[Run]:
    """All runs; those that are not in the log yet are made, and written there."""
    done = {(run.method, run.seed) for run in log.rows}
    seeds = range(_NUM_QUICK_SEEDS if is_quick else _NUM_SEEDS)
    tasks = [(method, seed, is_quick) for seed in seeds for method in _METHODS if (method, seed) not in done]
    syne_tune.install()
    with multiprocessing.get_context("spawn").Pool(_NUM_PROCESSES) as pool:
        for run in pool.imap_unordered(_measured, tasks):
            log.add(run)
    return log.rows


def main(arguments: Sequence[str] = ()) -> None:
    """Make the runs that are missing; write the claims where all seeds were played on the real table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a synthetic table, few seeds, no results")
    options = parser.parse_args(arguments)
    log = Log.of(work_folder("search_moasha") / ("look.jsonl" if options.quick else "runs.jsonl"), Run, is_new=options.quick)
    found = claims(_runs(log, is_quick=options.quick))
    tell(found, is_quick=options.quick)
    print("\n".join(f"{name}: {value:.4g}" for name, value in found[0].peers.items()), flush=True)
    if not options.quick:
        log.path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
