"""A real joint sweep of hyperparameters and compression on Fashion-MNIST: 60 trials, rungs 1/3/9, on 20,000 fixed images, on two cores.

python -m benchmarks.search_joint           about 60 minutes with the teacher, writes results
python -m benchmarks.search_joint --quick   the smoke scale; writes none

It is `foundry run examples/fashion_mnist/pipeline.yaml` with a larger sweep on fewer images: the teacher first, whose time does not count, and
then the search, whose minutes are those of its stage, from the call to the chosen trial; the final training is not done. An interrupted sweep goes on
where it was, and its minutes are those of all stretches.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
from collections.abc import Sequence

from benchmarks import fashion
from benchmarks.record import Claim, work_folder
from benchmarks.stages import Stages
from foundry_ray.types import StudyResult, Trial

_PIPELINE = "examples/fashion_mnist/pipeline.yaml"
_SETTINGS = (
    *("--set", "data.split.train=20000", "--set", "data.split.val=4000"),
    *("--set", "search.scheduler.rungs=[1,3,9]", "--set", "search.budget.trials=60"),
)
_TIMEOUT_S = 5_400.0


def main(arguments: Sequence[str] = ()) -> None:
    """Sweep, and write what it took and found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="the smoke scale, no results")
    options = parser.parse_args(arguments)
    scale = ("--scale", "smoke") if options.quick else ()
    folder = work_folder("search_joint") / ("look" if options.quick else "store")
    arguments = (_PIPELINE, *(() if options.quick else _SETTINGS), *scale, "--store", f"file://{folder}")
    run = functools.partial(Stages.run, env=fashion.home(), timeout_s=_TIMEOUT_S)
    run(*arguments, "--until", "teacher")
    swept = run(*arguments, "--until", "search")
    result = swept.output("search", StudyResult)
    claim = _claim(result, max(swept.minutes("search"), max(point.at_s for point in result.history) / 60))
    if options.quick:
        print(f"{claim.name}: {claim.value:.1f} {claim.unit}", {name: round(value, 4) for name, value in claim.peers.items()}, flush=True)
    else:
        claim.write()
    shutil.rmtree(folder)


def _claim(result: StudyResult, minutes: float) -> Claim:
    trials = {trial.number: trial for trial in result.trials}
    front = sorted((trials[number] for number in result.pareto_front), key=lambda trial: trial.values["latency_p50_ms"])
    epochs = sum(trial.resource_used for trial in result.trials)
    volumes = {f"hypervolume_at_{round(point.at_s / 60)}_min": point.hypervolume for point in result.history}
    return Claim(
        name="joint_sweep_minutes",
        claim=f"Fashion-MNIST, joint sweep: {len(trials)} trials, rungs 1/3/9, 20,000 images, 2 cores, without teacher and final training",
        value=minutes,
        unit="min",
        runs=[_row(trial) for trial in front],
        peers={
            **{f"trials_{state}": float(count) for state, count in result.num_by_state.items()},
            "front": float(len(front)),
            "epochs": float(epochs),
            "epochs_without_stopping": float(9 * len(trials)),
            "worker_hours": result.worker_seconds / 3600,
            "chosen_accuracy": trials[result.chosen].values["accuracy"],
            "chosen_latency_ms": trials[result.chosen].values["latency_p50_ms"],
            "chosen_bytes": trials[result.chosen].values["size_bytes"],
            **volumes,
        },
    )


def _row(trial: Trial) -> dict[str, object]:
    """A member of the front."""
    names = ("accuracy", "latency_p50_ms", "size_bytes", "num_params")
    return {"trial": trial.number, "epochs": trial.resource_used, **{name: trial.values[name] for name in names}, "params": dict(trial.params)}


if __name__ == "__main__":
    main(sys.argv[1:])
