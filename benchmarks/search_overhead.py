"""What a trial costs beside its training: trials that do nothing, through foundry and through Ray Tune, and real ones.

python -m benchmarks.search_overhead           about 6 minutes on a quiet machine, writes results
python -m benchmarks.search_overhead --quick   one round with few trials; writes none

    ours      our executor with warm, reused workers, a study with its journal in a folder, random proposals
    reused    stock Ray Tune: a class trainable with `reuse_actors=True`, its random search, Ray's own settings
    fresh     the same with an actor for each trial;   nested: each trial is a TorchTrainer with one worker

Two slots of one CPU each; a cluster of its own for each run, which is up before the clock starts; the seconds of a run, its actors' start among them,
over its trials. `ours` and `reused` take turns. Then 2,000 trials of ours with random and with TPE's proposals: seconds of the last 200 over those of
the first 200 after the first one that ended, and the driver's memory. Then real students (`search_peers.student_trials`), one after another.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.record import ROOT, Claim, Log, tell, timed, work_folder
from benchmarks.search_table import students
from foundry_ray.clock import SystemClock
from foundry_ray.observability import ConsoleReporter
from foundry_ray.types import to_json

_ROUNDS = 5
_TRIALS = {"ours": 200, "reused": 200, "fresh": 20, "nested": 3, "long_random": 2_000, "long_tpe": 2_000, "students": 18}
_QUICK_TRIALS = {"ours": 40, "reused": 40, "fresh": 4, "nested": 1, "long_random": 240, "long_tpe": 240, "students": 4}
_TAIL, _QUICK_TAIL = 200, 40
_NO_OVERHEAD = ("training", "latency", "waiting")
"""Phases of a trial that are training, measuring, or waiting while another process measures."""
_TIMEOUT_S = 1_200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process.

    Attributes:
        ends_s: When each trial ended, after the start of the run.
        memory_mb: Of the driver, then.
        overhead_s: Of real students: seconds of a trial that are neither training nor measuring.
        phases: Of real students: seconds of a trial by what they went into, in the actor.
    """

    kind: str
    round: int
    num_trials: int
    total_s: float
    ends_s: tuple[float, ...] = ()
    memory_mb: tuple[float, ...] = ()
    overhead_s: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def seconds_per_trial(self) -> float:
        """With the start of the actors."""
        return self.total_s / self.num_trials


def measure(kind: str, number: int, num_trials: int, folder: Path) -> Run:
    """One process to its end."""
    if kind == "students":
        return _students(number, num_trials, folder)
    if kind in ("reused", "fresh", "nested"):
        result = _tune(kind, num_trials, folder)
    else:
        sampler = "tpe" if kind == "long_tpe" else "random"
        _python("trivial_ours", str(folder), str(num_trials), sampler, env={"FOUNDRY_HOME": str(work_folder("search_home"))})
        result = folder / "ours.json"
    return Run(kind=kind, round=number, num_trials=num_trials, **json.loads(result.read_text()))


def _tune(kind: str, num_trials: int, folder: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="fr", dir="/tmp") as ray_folder:
        _python("trivial_tune", str(folder), ray_folder, str(num_trials), kind, env={"RAY_AUTH_MODE": "disabled"})
    for left in ("tune", "train"):
        shutil.rmtree(folder / left, ignore_errors=True)
    return folder / "tune.json"


def _students(number: int, num_trials: int, folder: Path) -> Run:
    """The first rung of all is the mark: by then the actor is up and warm."""
    made = students.prepared(work_folder("search_curves"), reporter=ConsoleReporter(clock=SystemClock()))
    path = folder / "made.json"
    path.write_text(json.dumps(to_json(made)))
    _python("student_trials", str(folder), str(path), str(num_trials), env={"FOUNDRY_HOME": str(made.home)})
    rungs = [json.loads(line) for line in (folder / "students.jsonl").read_text().splitlines()]
    first, last = rungs[0], rungs[-1]
    num_after = len({rung["trial"] for rung in rungs} - {first["trial"]})
    spent = {name: (seconds - first["seconds"].get(name, 0.0)) / num_after for name, seconds in last["seconds"].items()}
    total_s = last["at_s"] - first["at_s"]
    overhead_s = total_s / num_after - sum(spent.get(name, 0.0) for name in _NO_OVERHEAD)
    return Run(kind="students", round=number, num_trials=num_after, total_s=total_s, overhead_s=overhead_s, phases=spent)


def _python(module: str, *arguments: str, env: dict[str, str]) -> None:
    done = timed([sys.executable, "-m", f"benchmarks.search_peers.{module}", *arguments], env={"PYTHONPATH": str(ROOT), **env}, timeout_s=_TIMEOUT_S)
    assert done.code == 0, f"{module} ended with {done.code}: {done.stdout[-2000:]}"


def claims(runs: Sequence[Run], *, tail: int) -> list[Claim]:
    """Overheads and growth."""
    long, [real] = [run for run in runs if run.kind.startswith("long")], [run for run in runs if run.kind == "students"]
    return [_beside_tune(runs), *_growth(long, tail), _real(real)]


def _beside_tune(runs: Sequence[Run]) -> Claim:
    kinds = ("ours", "reused", "fresh", "nested")
    per_trial = {kind: [run.seconds_per_trial for run in runs if run.kind == kind] for kind in kinds}
    seen = {f"{kind}_s_{end.__name__}": float(end(values)) for kind, values in per_trial.items() for end in (statistics.median, min, max)}
    steady = {f"{kind}_steady_s": statistics.median(_steady_s(run) for run in runs if run.kind == kind) for kind in ("ours", "reused")}
    return Claim(
        name="trial_overhead_vs_tune_ratio",
        claim="a trial that does nothing, with our journal, over one of stock Ray Tune with reused actors; 2 slots, 200 trials",
        value=statistics.median(per_trial["ours"]) / statistics.median(per_trial["reused"]),
        unit="x",
        runs=[_summary(run) for run in runs if run.kind in kinds],
        peers=seen | steady,
    )


def _growth(runs: Sequence[Run], tail: int) -> list[Claim]:
    ratios = {f"{run.kind}_ratio": _span_s(run, -tail) / _span_s(run, 0, tail) for run in runs}
    memory = {f"{run.kind}_memory_growth_mb": run.memory_mb[-1] - run.memory_mb[tail] for run in runs}
    spans = {f"{run.kind}_{name}_s": value for run in runs for name, value in (("first", _span_s(run, 0, tail)), ("last", _span_s(run, -tail)))}
    evidence, what = [_summary(run) for run in runs], "random or TPE, the larger one"
    return [
        Claim(
            name="trial_growth_ratio",
            claim=f"{runs[0].num_trials:,} trials that do nothing: seconds of the last {tail} over the first {tail}, {what}",
            value=max(ratios.values()),
            unit="x",
            runs=evidence,
            peers=ratios | spans,
        ),
        Claim(
            name="trial_memory_growth_mb",
            claim=f"growth of the driver's memory from trial {tail} to trial {runs[0].num_trials:,} that does nothing, {what}",
            value=max(memory.values()),
            unit="MB",
            runs=evidence,
            peers=memory,
        ),
    ]


def _real(run: Run) -> Claim:
    return Claim(
        name="student_trial_overhead_s",
        claim="of a real student's trial on Fashion-MNIST, all that is neither training nor measuring",
        value=run.overhead_s,
        unit="s",
        runs=[_summary(run)],
        peers={f"{name}_s": seconds for name, seconds in run.phases.items()} | {"whole_trial_s": run.seconds_per_trial},
    )


def _span_s(run: Run, start: int, stop: int | None = None) -> float:
    """From the first to the last end of a stretch of trials."""
    ends_s = sorted(run.ends_s)[start:stop]
    return ends_s[-1] - ends_s[0]


def _steady_s(run: Run) -> float:
    """The usual time between two ends, without the start of the actors; two slots end in pairs, so the mean of the later half counts."""
    later = sorted(run.ends_s)[run.num_trials // 2 :]
    return statistics.mean(after - before for before, after in pairwise(later))


def _summary(run: Run) -> dict[str, object]:
    return {name: value for name, value in asdict(run).items() if name not in ("ends_s", "memory_mb") and value}


def _wanted(*, is_quick: bool) -> list[tuple[str, int]]:
    rounds = 1 if is_quick else _ROUNDS
    turns = [(kind, number) for number in range(rounds) for kind in (("ours", "reused") if number % 2 else ("reused", "ours"))]
    return [*turns, *((kind, 0) for kind in ("fresh", "nested", "long_random", "long_tpe", "students"))]


def main(arguments: Sequence[str] = ()) -> None:
    """Measure what is not measured yet; write the claims where it was the full measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one round, few trials, no results")
    options = parser.parse_args(arguments)
    folder = work_folder("search_overhead")
    log = Log.of(folder / ("look.jsonl" if options.quick else "runs.jsonl"), Run, is_new=options.quick)
    trials, tail = (_QUICK_TRIALS, _QUICK_TAIL) if options.quick else (_TRIALS, _TAIL)
    for kind, number in _wanted(is_quick=options.quick):
        if any((run.kind, run.round) == (kind, number) for run in log.rows):
            continue
        run = measure(kind, number, trials[kind], folder)
        log.add(run)
        print(f"{kind}: {run.num_trials} trials in {run.total_s:.1f} s, {run.seconds_per_trial:.3f} s each", flush=True)
    tell(claims(log.rows, tail=tail), is_quick=options.quick)
    if not options.quick:
        log.path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
