"""DeepSpeed on two ranks against one plain process, without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parent / "_deepspeed_rank.py"
_ROOT = Path(__file__).parents[2]
# Sums over half batches round differently from sums over whole ones: a few units in the last place of fp32 per step, 12 steps.
_TOLERANCE = 1e-5

Results = dict[str, dict[str, object]]
Ranks = tuple[Path, Results]


def _spawn(folder: Path, stages: list[int], *, world_size: int) -> Results:
    folder.mkdir()
    procs = []
    for rank in range(world_size):
        env = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "DS_ACCELERATOR": "cpu",
            "PYTHONPATH": str(_ROOT),
        }
        arguments = [sys.executable, str(_SCRIPT), str(folder), *map(str, stages)]
        procs.append(subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = [proc.communicate(timeout=240)[0] for proc in procs]
    assert [proc.returncode for proc in procs] == [0] * world_size, "\n".join(outputs)
    results: Results = json.loads((folder / "result-0.json").read_text())
    return results


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("ranks") / "two"
    return folder, _spawn(folder, [0, 1, 2, 3], world_size=2)


@pytest.fixture(scope="module")
def reference() -> dict[str, list[float]]:
    code = "import json; from _deepspeed_rank import reference; print(json.dumps({name: reference(name) for name in ('adamw', 'sgd')}))"
    env = {**os.environ, "PYTHONPATH": f"{_ROOT}:{_SCRIPT.parent}"}
    losses: dict[str, list[float]] = json.loads(subprocess.check_output([sys.executable, "-c", code], env=env, text=True, timeout=120))
    return losses


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_learn_what_one_process_learns(two_ranks: Ranks, reference: dict[str, list[float]], stage: int, optimizer: str) -> None:
    assert two_ranks[1][f"zero{stage}-{optimizer}"]["losses"] == pytest.approx(reference[optimizer], abs=_TOLERANCE)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_checkpoint_of_two_ranks_goes_on_bit_for_bit(two_ranks: Ranks, stage: int, optimizer: str) -> None:
    result = two_ranks[1][f"zero{stage}-{optimizer}"]
    assert result["resumed"] == result["losses"]
    assert result["warnings"] == []


@pytest.fixture(scope="module")
def one_rank(two_ranks: Ranks) -> Results:
    return _spawn(two_ranks[0].with_name("one"), [0, 1, 2, 3], world_size=1)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_another_number_of_workers_gets_the_weights_and_a_warning(two_ranks: Ranks, one_rank: Results, stage: int) -> None:
    result = one_rank[f"zero{stage}-adamw"]
    assert result["loaded"] == two_ranks[1][f"zero{stage}-adamw"]["saved"]
    assert result["epoch"] == 1
    then, now = (f"{num} workers at ZeRO stage {stage}" for num in (2, 1))
    assert result["warnings"] == [f"the checkpoint is of {then}, this is {now}: the weights go on, the optimizer starts anew."]
