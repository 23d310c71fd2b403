"""Samples per second of the training loop beside the same job by hand and through other libraries: two ranks, gloo, one thread each.

python -m benchmarks.train_throughput           about 30 minutes on a quiet machine, writes results
python -m benchmarks.train_throughput --quick   a look of a few minutes; writes none

The job: the 0.70 M ResNet on Fashion-MNIST in memory, batch 128 over two ranks, flips, AdamW (fused), one cycle, clipping, bf16 autocast,
channels last; and an empty model, one linear layer, whose step is all overhead. Foundry and its peers take turns in an order that rotates;
each speed is taken after a warm-up, ratios are of medians. DeepSpeed and Accelerate's DeepSpeed plugin run at the same ZeRO stage as
foundry; Lightning's DeepSpeed strategy refuses CPUs and runs on DDP, which shards nothing, so foundry at ZeRO 0 is what stands beside it,
and the faster of Lightning's Trainer and Fabric counts. Each run is kept as soon as it is made, so that an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers_train.job import Job
from benchmarks.peers_train.launch import peers_python, run_ranks
from benchmarks.peers_train.rows import fashion_rows
from benchmarks.record import ROOT, Claim, Log, timed, work_folder

_TIMEOUT_S = 600.0
_NUM_RANKS = 2
_FULL_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contestant:
    """A script of `peers_train`, its further arguments, and the ZeRO stage that it is asked for."""

    script: str
    arguments: tuple[str, ...] = ()
    zero_stage: int = 1
    is_ours: bool = False


_CONTESTANTS = {
    "foundry": _Contestant(script="foundry", is_ours=True),
    "foundry_zero0": _Contestant(script="foundry", zero_stage=0, is_ours=True),
    "foundry_in_ray_train": _Contestant(script="in_ray", is_ours=True),
    "deepspeed": _Contestant(script="bare_deepspeed"),
    "deepspeed_zero0": _Contestant(script="bare_deepspeed", zero_stage=0),
    "accelerate": _Contestant(script="hf_accelerate", arguments=("deepspeed",)),
    "accelerate_ddp": _Contestant(script="hf_accelerate", arguments=("ddp",), zero_stage=0),
    "lightning_trainer": _Contestant(script="lightning_trainer", zero_stage=0),
    "lightning_fabric": _Contestant(script="lightning_fabric", zero_stage=0),
    "ddp": _Contestant(script="plain_ddp", zero_stage=0),
}
_BATCH = {"resnet": 128, "empty": 2}
_STEPS = {"resnet": (130, 30), "empty": (1_000, 200)}
_QUICK_STEPS = {"resnet": (25, 5), "empty": (150, 50)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement. Milliseconds are per step: of the clock, and of rank 0's processor time, which neighbours disturb less."""

    model: str
    contestant: str
    round: int
    step_ms: float
    cpu_ms: float
    loss: float
    peak_mb: float
    note: str

    @property
    def samples_per_s(self) -> float:
        """Over all ranks."""
        return 1e3 * _BATCH[self.model] / self.step_ms


def measure(model: str, name: str, number: int, steps: tuple[int, int], folder: Path) -> Run:
    """Run one contestant to its end."""
    who, out, path = _CONTESTANTS[name], folder / f"{name}.out.json", folder / f"{name}.job.json"
    out.unlink(missing_ok=True)
    job = Job(
        model="resnet" if model == "resnet" else "empty",
        rows=str(fashion_rows()),
        batch_size=_BATCH[model],
        num_steps=steps[0],
        num_warmup=steps[1],
        zero_stage=who.zero_stage,
        out=str(out),
    )
    job.write(path)
    command = [sys.executable if who.is_ours else peers_python(), "-m", f"benchmarks.peers_train.{who.script}", str(path), *who.arguments]
    if who.script == "in_ray":
        done = timed(command, env={"PYTHONPATH": str(ROOT), "FOUNDRY_HOME": str(folder / "home")}, timeout_s=_TIMEOUT_S)
        assert done.code == 0, done.stdout[-2000:]
    else:
        run_ranks(command, num_ranks=_NUM_RANKS, log=folder / f"{name}.log", timeout_s=_TIMEOUT_S)
    return Run(model=model, contestant=name, round=number, **json.loads(out.read_text()))


def _fill(log: Log[Run], *, rounds: int, names: Sequence[str], steps: Mapping[str, tuple[int, int]], folder: Path) -> None:
    """Make the runs that are missing, in rounds."""
    done = {(run.model, run.contestant, run.round) for run in log.rows}
    for number in range(rounds):
        turn = number % len(names)
        for model in _BATCH:
            for name in [*names[turn:], *names[:turn]]:
                if (model, name, number) in done:
                    continue
                run = measure(model, name, number, steps[model], folder)
                log.add(run)
                print(f"{model} {name}: {run.step_ms:.2f} ms, {run.cpu_ms:.2f} ms of processor time, {run.samples_per_s:.0f} samples/s", flush=True)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Ratios of the ResNet's speed, and the milliseconds of the empty model's step."""
    speeds = _by_contestant([run for run in runs if run.model == "resnet"], "samples_per_s")
    lightning = max(("lightning_trainer", "lightning_fabric"), key=lambda name: statistics.median(speeds.get(name, [0.0])))
    what = "samples/s of our loop with DeepSpeed on 2 workers over"
    wanted = [
        ("train_vs_deepspeed_ratio", "foundry", "deepspeed", f"{what} a bare DeepSpeed script by hand, both at ZeRO 1"),
        ("train_vs_accelerate_ratio", "foundry", "accelerate", f"{what} Accelerate with its DeepSpeed plugin, both at ZeRO 1"),
        ("train_vs_lightning_ratio", "foundry_zero0", lightning, f"{what} {lightning} on DDP (its DeepSpeed strategy refuses CPUs), ours at ZeRO 0"),
    ]
    found = [_ratio(name, claim, ours, peer, runs) for name, ours, peer, claim in wanted if ours in speeds and peer in speeds]
    overheads = _by_contestant([run for run in runs if run.model == "empty"], "step_ms")
    if "foundry" in overheads:
        found.append(
            Claim(
                name="train_step_overhead_ms",
                claim="a training step of an empty model on 2 workers at ZeRO 1: all that is not the model",
                value=statistics.median(overheads["foundry"]),
                unit="ms",
                runs=[asdict(run) for run in runs if run.model == "empty"],
                peers=_spread(overheads) | _spread(_by_contestant([run for run in runs if run.model == "empty"], "cpu_ms"), "_cpu_ms"),
            )
        )
    return found


def _ratio(name: str, claim: str, ours: str, peer: str, runs: Sequence[Run]) -> Claim:
    mine = [run for run in runs if run.model == "resnet"]
    speeds, processor = _by_contestant(mine, "samples_per_s"), _by_contestant(mine, "cpu_ms")
    pairs = [a / b for a, b in zip(speeds[ours], speeds[peer], strict=False)]
    seen = {"ratio_of_rounds_min": min(pairs), "ratio_of_rounds_median": statistics.median(pairs), "ratio_of_rounds_max": max(pairs)}
    return Claim(
        name=name,
        claim=claim,
        value=statistics.median(speeds[ours]) / statistics.median(speeds[peer]),
        unit="x",
        runs=[asdict(run) for run in mine],
        peers=seen | _spread(speeds) | _spread(processor, "_cpu_ms"),
    )


def _by_contestant(runs: Sequence[Run], field: str) -> dict[str, list[float]]:
    """Values per contestant, in the order of the rounds."""
    ordered = sorted(runs, key=lambda run: run.round)
    return {name: [getattr(run, field) for run in ordered if run.contestant == name] for name in dict.fromkeys(run.contestant for run in ordered)}


def _spread(values: Mapping[str, Sequence[float]], suffix: str = "") -> dict[str, float]:
    return {
        f"{name}{suffix}{ending}": function(numbers)
        for name, numbers in values.items()
        for ending, function in (("", statistics.median), ("_min", min), ("_max", max))
    }


def main(arguments: Sequence[str] = ()) -> None:
    """Measure what is not measured yet; write the claims where it was the full measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few steps, one round, no results")
    parser.add_argument("--rounds", type=int, default=_FULL_ROUNDS)
    parser.add_argument("--only", nargs="+", choices=list(_CONTESTANTS), default=list(_CONTESTANTS), help="these contestants; writes no results")
    options = parser.parse_args(arguments)
    is_full = not options.quick and options.only == list(_CONTESTANTS) and options.rounds >= _FULL_ROUNDS
    folder = work_folder("train_throughput")
    log = Log.of(folder / ("runs.jsonl" if is_full else "look.jsonl"), Run, is_new=not is_full)
    steps, rounds = (_QUICK_STEPS, 1) if options.quick else (_STEPS, options.rounds)
    _fill(log, rounds=rounds, names=options.only, steps=steps, folder=folder)
    for claim in claims(log.rows):
        if is_full:
            claim.write()
        else:
            print(f"{claim.name}: {claim.value:.3f} {claim.unit} {dict(claim.peers)}", flush=True)
    if is_full:
        log.path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
