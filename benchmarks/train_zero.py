"""SmolLM2-135M for 30 steps under ZeRO 0, 1, 2 and 3 on two workers: are the losses those of plain fp32 torch, and what does each stage cost?

python -m benchmarks.train_zero           about 20 minutes, writes results
python -m benchmarks.train_zero --quick   a tiny transformer, a few steps; writes none

The model comes through `import:`, as in examples/smollm2. The reference is one process, plain torch by hand, the same weights, sequences,
order and learning rates. The claim is the largest relative difference of a step's loss over all stages and steps; sums are made in another
order on two ranks, and 30 AdamW steps amplify that, so the bound is 1e-3 of the loss. Peak memory per worker, time per step, size and time of a
checkpoint (into a folder) stand in `peers` and in the printed table. Each stage is kept, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers_train.launch import peers_python, run_ranks
from benchmarks.peers_train.zero import ZeroJob
from benchmarks.record import Claim, work_folder

_STAGES = (0, 1, 2, 3)
_TIMEOUT_S = 1_800.0
_NUM_STEPS, _BATCH_SIZE, _NUM_TOKENS = 30, 4, 64
_SHOWN = ("step_s", "peak_mb", "between_steps_mb", "checkpoint_mb", "checkpoint_s", "checkpoint_held_s")
Measured = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """What is trained: the family and its parameters, a file of tokens, sequences per step, steps."""

    family: str
    params: Mapping[str, Any]
    tokens: Path
    batch_size: int
    num_steps: int


def measure(stage: int | None, size: _Size, folder: Path) -> list[Measured]:
    """One stage on two ranks, or the reference in one process: what each rank wrote."""
    name = "reference" if stage is None else f"zero{stage}"
    num_ranks, out, path, store = 1 if stage is None else 2, folder / name, folder / f"{name}.job.json", folder / f"{name}.store"
    shutil.rmtree(store, ignore_errors=True)
    job = ZeroJob(
        family=size.family,
        params=size.params,
        tokens=str(size.tokens),
        batch_size=size.batch_size,
        num_steps=size.num_steps,
        zero_stage=stage,
        store=f"file://{store}",
        out=str(out),
    )
    job.write(path)
    command = [peers_python(), "-m", "benchmarks.peers_train.zero", str(path)]
    run_ranks(command, num_ranks=num_ranks, log=folder / f"{name}.log", timeout_s=_TIMEOUT_S)
    shutil.rmtree(store, ignore_errors=True)
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(num_ranks)]


def summed_up(ranks: Sequence[Measured], reference: Measured) -> dict[str, float]:
    """The mean loss over the ranks against the reference, and the numbers of the rank that needs more."""
    losses = [statistics.mean(pair) for pair in zip(*(rank["losses"] for rank in ranks), strict=True)]
    apart = [abs(ours - theirs) / theirs for ours, theirs in zip(losses, reference["losses"], strict=True)]
    return {"relative_difference": max(apart), "last_loss": losses[-1], **{name: max(rank[name] for rank in ranks) for name in _SHOWN}}


def claim_of(table: Mapping[int, Mapping[str, float]], reference: Measured) -> Claim:
    """The worst stage counts."""
    peers = {f"zero{stage}_{name}": value for stage, row in table.items() for name, value in row.items()}
    peers |= {f"reference_{name}": reference[name] for name in ("step_s", "peak_mb", "num_params")}
    peers |= {"reference_first_loss": reference["losses"][0], "reference_last_loss": reference["losses"][-1]}
    return Claim(
        name="zero_loss_relative_difference",
        claim="SmolLM2-135M, 30 steps on 2 workers: losses under ZeRO 0 to 3 against plain fp32 torch in one process, largest relative difference",
        value=max(row["relative_difference"] for row in table.values()),
        unit="of the loss",
        runs=[{"reference": reference["losses"]}, *({f"zero{stage}": dict(row)} for stage, row in table.items())],
        peers=peers,
    )


def _print(table: Mapping[int, Mapping[str, float]]) -> None:
    names = ("relative_difference", *_SHOWN)
    print("| ZeRO | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for stage, row in table.items():
        print(f"| {stage} | " + " | ".join(f"{row[name]:.4g}" for name in names) + " |", flush=True)


def _tiny(folder: Path) -> _Size:
    """A transformer of a few thousand parameters on random tokens."""
    import numpy as np

    tokens = folder / "tokens.npz"
    np.savez(tokens, inputs=np.random.default_rng(0).integers(0, 64, (256, 16)), vocab_size=64)
    return _Size(family="import:benchmarks.peers_train.tiny:build", params={}, tokens=tokens, batch_size=4, num_steps=8)


def _smollm2() -> _Size:
    """The model of examples/smollm2, from a file that loads in a second, on its reviews."""
    folder = work_folder("train_zero") / "smollm2"
    tokens, weights = folder / "tokens.npz", folder / "weights"
    if not tokens.is_file():
        command = [peers_python(), "-m", "benchmarks.peers_train.smollm2", str(folder), str(_NUM_TOKENS)]
        run_ranks(command, num_ranks=1, log=work_folder("train_zero") / "smollm2.log", timeout_s=_TIMEOUT_S)
    params = {"path": str(weights)}
    return _Size(family="import:examples.smollm2.model:smollm2", params=params, tokens=tokens, batch_size=_BATCH_SIZE, num_steps=_NUM_STEPS)


def main(arguments: Sequence[str] = ()) -> None:
    """Measure the stages that are missing; write the claim where it was the full measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tiny model, no results")
    options = parser.parse_args(arguments)
    folder = work_folder("train_zero") / ("look" if options.quick else "found")
    if options.quick:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    size = _tiny(folder) if options.quick else _smollm2()
    found: dict[int | None, list[Measured]] = {}
    for stage in (None, *_STAGES):
        path = folder / f"stage-{stage}.json"
        if not path.is_file():
            path.write_text(json.dumps(measure(stage, size, folder)))
        found[stage] = json.loads(path.read_text())
        print(f"ZeRO {stage}: {found[stage][0]['step_s']:.3f} s a step, {found[stage][0]['peak_mb']:.0f} MB", flush=True)
    reference = found[None][0]
    table = {stage: summed_up(found[stage], reference) for stage in _STAGES}
    _print(table)
    claim = claim_of(table, reference)
    if options.quick:
        print(f"{claim.name}: {claim.value:.2e} {claim.unit}", flush=True)
        return
    claim.write()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
