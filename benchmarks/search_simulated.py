"""What deciding costs: 10,000 trials of one second on 16 workers, in simulated time to which the driver's real CPU time is charged.

python -m benchmarks.search_simulated           about 20 minutes, writes results
python -m benchmarks.search_simulated --quick   500 trials; writes none

Sampler, scheduler and journal are the product's; only the training is made up. One driver serves all workers, one after another: a worker that has
told something waits until that is noted, and at its trial's end until the next one is proposed and durable in a store on disk. Where all that cost
nothing, the study would take 10,000 / 16 = 625 seconds; the ratio is to that. What the disk itself takes is not charged, and stands beside it as wall
time. Trials of one second leave a scheduler nothing to decide, so there is a fourth study, in which MO-ASHA stops 10,000 trials after one, three or
nine seconds; its ideal is a sixteenth of the seconds that they trained.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.record import Claim, work_folder
from benchmarks.search_table import driving
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.config import SchedulerConfig
from foundry_ray.search.events import Event, Job
from foundry_ray.search.samplers import Kind, Sampler
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.executors import SimulatedExecutor
from foundry_ray.types import Objective, Param, Scalar, SearchSpace, canonical_sha256

_NUM_TRIALS, _NUM_QUICK, _NUM_WORKERS = 10_000, 500, 16
_PARAMS = (
    Param(name="lr", kind="float", low=1e-4, high=1e-2, log=True),
    Param(name="weight_decay", kind="float", low=1e-5, high=1e-1, log=True),
    Param(name="width", kind="int", low=4, high=32, step=2),
    Param(name="depth", kind="int", low=1, high=3),
    Param(name="prune_ratio", kind="float", low=0.0, high=0.8),
    Param(name="weight_bits", kind="categorical", choices=(8, 32)),
)
_OBJECTIVES = (
    Objective(metric="accuracy", mode="max"),
    Objective(metric="latency_p50_ms", mode="min"),
    Objective(metric="size_bytes", mode="min"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One study, and what is claimed of it."""

    name: str
    sampler: Kind
    num_objectives: int
    claim: str
    scheduler: SchedulerConfig = driving.TO_THE_END


_CASES = (
    Case(name="search_simulated_random_ratio", sampler="random", num_objectives=1, claim="one-second trials with random proposals"),
    Case(name="search_simulated_tpe_ratio", sampler="tpe", num_objectives=1, claim="one-second trials with TPE on one objective"),
    Case(name="search_simulated_three_objectives_ratio", sampler="tpe", num_objectives=3, claim="one-second trials with TPE on three objectives"),
    Case(
        name="search_simulated_moasha_ratio",
        sampler="tpe",
        num_objectives=3,
        claim="trials with TPE on three objectives, stopped by MO-ASHA after one, three or nine seconds",
        scheduler=driving.ASHA,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one study took: in simulated time, of it the driver's CPU time, and really."""

    num_trials: int
    seconds: float
    ideal_s: float
    ratio: float
    driver_cpu_s: float
    wall_s: float
    num_objects: int


def measured(case: Case, num_trials: int) -> Measured:
    """Run a study in simulated time."""
    folder = work_folder(case.name)
    shutil.rmtree(folder)
    store, clock = LocalStore(folder), FakeClock()
    space = SearchSpace(params=_PARAMS, objectives=_OBJECTIVES[: case.num_objectives])
    sampler = Sampler(kind=case.sampler, space=space, objectives=space.objectives, seed=0)
    began_s = time.perf_counter()
    coordinator = driving.coordinator(space, sampler, scheduler=case.scheduler, num_trials=num_trials, seed=0, clock=clock, store=store)
    executor = SimulatedExecutor(_trial, clock=clock, num_workers=_NUM_WORKERS)
    seconds = executor.run(coordinator)
    coordinator.close()
    num_objects = sum(1 for _ in store.list(""))
    shutil.rmtree(folder)
    ideal_s = sum(trial.resource_used for trial in coordinator.course.state.trials()) / _NUM_WORKERS
    return Measured(
        num_trials=num_trials,
        seconds=seconds,
        ideal_s=ideal_s,
        ratio=seconds / ideal_s,
        driver_cpu_s=executor.driver_s,
        wall_s=time.perf_counter() - began_s,
        num_objects=num_objects,
    )


def _trial(job: Job) -> Iterator[Event]:
    """Epochs of one second each."""
    student = _student(job.params)
    if not job.known:
        cost = {name: value for name, value in student.items() if name != "accuracy"}
        yield Event(kind="prepared", number=job.number, values=cost, effective=canonical_sha256(dict(job.params)), graph=str(job.number), device="d")
    told = job.from_epoch
    for rung, level in enumerate((job.to_epoch, *job.later), job.rung):
        curve = tuple({"epoch": float(epoch), "accuracy": student["accuracy"] * (1 - 0.3**epoch)} for epoch in range(told + 1, level + 1))
        for epoch, row in enumerate(curve, told + 1):
            yield Event(kind="epoch", number=job.number, epoch=epoch, values={"accuracy": row["accuracy"]})
        values = {"accuracy": curve[-1]["accuracy"]}
        yield Event(kind="rung", number=job.number, rung=rung, epoch=level, values=values, curve=curve, checkpoint=f"states/{job.number}/{level}")
        told = level


def _student(params: Mapping[str, Scalar]) -> dict[str, float]:
    """Larger is better and slower; the best learning rate is 0.002."""
    size = float(params["width"]) ** 2 * float(params["depth"]) * (1 - float(params["prune_ratio"]))
    bits, drift = float(params["weight_bits"]), math.log10(float(params["lr"]) / 2e-3) ** 2
    accuracy = 1 - 0.3 / math.sqrt(1 + size) - 0.03 * drift - 0.01 * math.log10(float(params["weight_decay"])) ** 2 / 25 - 0.02 / bits
    return {"accuracy": accuracy, "latency_p50_ms": 0.2 + size * bits / 2e4, "size_bytes": 500 + size * bits}


def main(arguments: Sequence[str] = ()) -> None:
    """All cases, one after another."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="500 trials, no results")
    is_quick = parser.parse_args(arguments).quick
    num_trials = _NUM_QUICK if is_quick else _NUM_TRIALS
    for case in _CASES:
        done = measured(case, num_trials)
        per_trial_ms = 1e3 * done.driver_cpu_s / num_trials
        print(f"{case.claim}: {done.ratio:.3f} of the ideal, {per_trial_ms:.1f} ms CPU a trial, {done.num_objects} objects", flush=True)
        if not is_quick:
            Claim(
                name=case.name,
                claim=f"{num_trials:,} {case.claim}, {_NUM_WORKERS} workers, sampler, scheduler and journal charged: time to the ideal's",
                value=done.ratio,
                unit="x",
                runs=[asdict(done)],
                peers={"ideal_s": done.ideal_s, "driver_cpu_ms_per_trial": per_trial_ms},
            ).write()


if __name__ == "__main__":
    main(sys.argv[1:])
