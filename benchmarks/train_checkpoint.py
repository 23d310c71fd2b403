"""What asynchronous checkpoints cost the training: the share of the time that the loop is held, at one checkpoint per five minutes.

python -m benchmarks.train_checkpoint           about 12 minutes, writes results
python -m benchmarks.train_checkpoint --quick   a small state and two checkpoints; writes none

Two ranks under DeepSpeed (ZeRO 1) train an 11 M ResNet, whose state is 134 MB, with the product's loop, control and writer, and save every
20 seconds into a folder store and into the embedded S3 server on the same two cores. The seconds that a checkpoint holds the loop, on the
rank that is held longer, divided by 300 s, are the claim. How much slower steps are while an upload runs beside them stands in `peers`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers_train.launch import run_ranks
from benchmarks.peers_train.stall import StallJob
from benchmarks.record import Claim, work_folder
from foundry_ray.artifacts import embedded
from foundry_ray.config import Settings

_PERIOD_S = 300.0
_NUM_RANKS = 2
_TIMEOUT_S = 1_200.0
_STORES = ("file", "embedded")
Measured = dict[str, float | list[float]]


@contextmanager
def _served(kind: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """A store of its own, whose data are gone afterwards: its URI and the home that opens it."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        settings = Settings(home=Path(scratch))
        if kind == "file":
            yield f"file://{scratch}/store", Path(scratch)
            return
        embedded.serve(settings)
        try:
            yield "embedded", Path(scratch)
        finally:
            embedded.stop(settings)


def measure(kind: str, folder: Path, *, width: int, every_s: float, num_saves: int) -> Measured:
    """Train with checkpoints into one kind of store; the worse rank's numbers, in seconds per checkpoint."""
    out, path = folder / f"{kind}.out", folder / f"{kind}.job.json"
    with _served(kind, folder) as (uri, home):
        StallJob(store=uri, home=str(home), width=width, every_s=every_s, num_saves=num_saves, out=str(out)).write(path)
        command = [sys.executable, "-m", "benchmarks.peers_train.stall", str(path)]
        run_ranks(command, num_ranks=_NUM_RANKS, log=folder / f"{kind}.log", timeout_s=_TIMEOUT_S)
    ranks = [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(_NUM_RANKS)]
    held = [max(pair) for pair in zip(*(rank["held_s"] for rank in ranks), strict=False)]
    busy, idle = (statistics.median(ranks[0][name]) if ranks[0][name] else 0.0 for name in ("busy_s", "idle_s"))
    slowed = max(0.0, sum(ranks[0]["busy_s"]) - len(ranks[0]["busy_s"]) * idle) / len(held)
    return {
        "held_s": held,
        "held_s_mean": statistics.mean(held),
        "held_s_max": max(held),
        "copy_s_mean": max(rank["blocked_s"] / len(rank["held_s"]) for rank in ranks),
        "step_s": idle,
        "step_s_during_upload": busy,
        "upload_slows_by_s": slowed,
        "checkpoint_mb": ranks[0]["checkpoint_bytes"] / 1e6,
    }


def claim_of(found: dict[str, Measured]) -> Claim:
    """The slower store counts."""
    peers: dict[str, float] = {}
    for kind, measured in found.items():
        peers |= {f"{kind}_{name}": value for name, value in measured.items() if isinstance(value, float)}
        peers[f"{kind}_stall_ratio"] = _mean(measured) / _PERIOD_S
        peers[f"{kind}_stall_ratio_with_slower_steps"] = (_mean(measured) + float(measured["upload_slows_by_s"])) / _PERIOD_S  # type: ignore[arg-type]
    return Claim(
        name="checkpoint_stall_ratio",
        claim="share of the time that a checkpoint of 134 MB per five minutes holds 2 workers, in the slower of a folder and the embedded store",
        value=max(_mean(measured) for measured in found.values()) / _PERIOD_S,
        unit="share",
        runs=[found],
        peers=peers,
    )


def _mean(measured: Measured) -> float:
    value = measured["held_s_mean"]
    assert isinstance(value, float)
    return value


def main(arguments: Sequence[str] = ()) -> None:
    """Measure the stores that are missing; write the claim where it was the full measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a small state, two checkpoints, no results")
    options = parser.parse_args(arguments)
    folder = work_folder("train_checkpoint")
    if options.quick:
        shutil.rmtree(folder / "look", ignore_errors=True)
    kept = folder / ("look" if options.quick else "found")
    kept.mkdir(exist_ok=True)
    sizes = {"width": 16, "every_s": 2.0, "num_saves": 2} if options.quick else {"width": 128, "every_s": 20.0, "num_saves": 8}
    found: dict[str, Measured] = {}
    for kind in _STORES:
        path = kept / f"{kind}.json"
        if not path.is_file():
            path.write_text(json.dumps(measure(kind, folder, **sizes)))  # type: ignore[arg-type]
        found[kind] = json.loads(path.read_text())
        print(f"{kind}: " + ", ".join(f"{name} {value:.4g}" for name, value in found[kind].items() if isinstance(value, float)), flush=True)
    claim = claim_of(found)
    if options.quick:
        print(f"{claim.name}: {claim.value:.5f}", flush=True)
        return
    claim.write()
    shutil.rmtree(kept)


if __name__ == "__main__":
    main(sys.argv[1:])
