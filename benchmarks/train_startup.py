"""From the call of `fit` to the end of the first training step, two workers: foundry beside a plain TorchTrainer with DeepSpeed.

python -m benchmarks.train_startup           about 10 minutes, writes results
python -m benchmarks.train_startup --quick   one round; writes none

Both train the 0.70 M ResNet of `peers_train/probe.py`, which itself notes when the second step begins, on 6,000 rows, each run in a process
and a Ray cluster of its own that is connected before the clock starts. The plain script has Ray's own settings, foundry has its own.
DeepSpeed's JIT cache is warm: a first plain run that fills it does not count. The two take turns; each second of both is in `peers`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers_train.rows import fashion_rows
from benchmarks.record import ROOT, Claim, Log, timed, work_folder

_SIDES = ("ours", "plain")
_ROUNDS = 7
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One start: seconds from the call to the end of the first step, and by what they went into."""

    side: str
    round: int
    total_s: float
    phases: dict[str, float]


def measure(side: str, number: int, folder: Path) -> Run:
    """Start once, in a process and a Ray cluster of its own."""
    with tempfile.TemporaryDirectory(prefix="fr", dir="/tmp") as ray_folder:
        command = [sys.executable, "-m", f"benchmarks.peers_train.startup_{side}", str(folder), ray_folder]
        home = {"FOUNDRY_HOME": str(work_folder("fashion"))} if side == "ours" else {"RAY_AUTH_MODE": "disabled"}
        env = {"PYTHONPATH": str(ROOT), "TORCH_EXTENSIONS_DIR": str(folder / "jit"), "OMP_NUM_THREADS": "1", **home}
        done = timed(command, env=env, timeout_s=_TIMEOUT_S)
    assert done.code == 0, f"{side} ended with {done.code}: {done.stdout[-2000:]}"
    shutil.rmtree(folder / "ray", ignore_errors=True)
    return Run(side=side, round=number, **json.loads((folder / f"{side}.json").read_text()))


def claim_of(runs: Sequence[Run]) -> Claim:
    """Medians, and the phases of both."""
    totals = {side: [run.total_s for run in runs if run.side == side] for side in _SIDES}
    seen = {f"{side}_s_{end.__name__}": float(end(values)) for side, values in totals.items() for end in (statistics.median, min, max)}
    for side in _SIDES:
        for phase in dict.fromkeys(name for run in runs if run.side == side for name in run.phases):
            seen[f"{side}_{phase}_s"] = statistics.median(run.phases.get(phase, 0.0) for run in runs if run.side == side)
    return Claim(
        name="train_startup_ratio",
        claim="`fit` called to first step done, 2 workers, JIT caches warm, over a plain TorchTrainer with DeepSpeed",
        value=statistics.median(totals["ours"]) / statistics.median(totals["plain"]),
        unit="x",
        runs=[asdict(run) for run in runs],
        peers=seen,
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Measure what is not measured yet; write the claim where all rounds were made."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one round, no results")
    options = parser.parse_args(arguments)
    folder = work_folder("train_startup")
    log = Log.of(folder / ("look.jsonl" if options.quick else "runs.jsonl"), Run, is_new=options.quick)
    fashion_rows()
    if not (folder / "jit").is_dir():
        measure("plain", -1, folder)
    for number in range(1 if options.quick else _ROUNDS):
        for side in _SIDES if number % 2 else _SIDES[::-1]:
            if any((run.side, run.round) == (side, number) for run in log.rows):
                continue
            run = measure(side, number, folder)
            log.add(run)
            print(f"{side}: {run.total_s:.2f} s " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in run.phases.items()), flush=True)
    claim = claim_of(log.rows)
    if options.quick:
        print(f"{claim.name}: {claim.value:.2f} {claim.unit}", flush=True)
        return
    claim.write()
    log.path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
