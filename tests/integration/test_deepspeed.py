"""DeepSpeed on two ranks against one plain process, without Ray: what is learnt, what each rank holds, and where it can go on."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from _deepspeed_rank import SAVED, Case, as_argument

_SCRIPT = Path(__file__).parent / "_deepspeed_rank.py"
_ROOT = Path(__file__).parents[2]
_STAGES = (0, 1, 2, 3)
# Sums over parts of a batch round differently from sums over the whole: a few units in the last place of fp32 per step, 6 steps.
_TOLERANCE = 2e-6
# The weights' 8 bits of bf16 or 11 of fp16, in losses around 1 that differ by the steps of 6 updates.
_HALF_TOLERANCE = 5e-3
_PLAIN = (
    *(Case(name=f"adamw-{stage}", stage=stage) for stage in _STAGES),
    Case(name="sgd-3", stage=3, optimizer="sgd"),
    Case(name="lion-1", stage=1, optimizer="lion"),
    Case(name="adafactor-0", optimizer="adafactor"),
)
_POISONED = tuple(Case(name=f"poisoned-{stage}", stage=stage, poisoned=1) for stage in _STAGES)
_OFFLOADED = (
    *(Case(name=f"offloaded-{stage}", stage=stage, settings={"offload_optimizer": {"device": "cpu"}}) for stage in (1, 2, 3)),
    Case(name="offloaded-weights", stage=3, settings={"offload_optimizer": {"device": "cpu"}, "offload_params": {"device": "cpu"}}),
)
_RECOMPUTED = tuple(Case(name=f"recomputed-{stage}", stage=stage, teacher={"activation_checkpointing": True}) for stage in (0, 2, 3))
_HALF = (
    *(Case(name=f"{precision}-{stage}", stage=stage, precision=precision) for precision in ("bf16", "fp16") for stage in (0, 2, 3)),
    *(
        Case(name=f"cast-{stage}-{passes}", stage=stage, precision="bf16", accumulation=passes, settings={"weights": "precision"})
        for stage, passes in itertools.product((1, 2, 3), (1, 2))
    ),
)
_OVERFLOWING = tuple(
    Case(name=f"overflowing-{stage}", stage=stage, precision="fp16", settings={"loss_scale": {"initial_power": 32}}) for stage in _STAGES
)

Results = dict[str, Any]


def _spawn(folder: Path, cases: tuple[Case, ...], *, world_size: int) -> Results:
    folder.mkdir()
    procs = []
    for rank in range(world_size):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        env = {**os.environ, **place, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(_ROOT)}
        arguments = [sys.executable, str(_SCRIPT), str(folder), *map(as_argument, cases)]
        procs.append(subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = [proc.communicate(timeout=240)[0] for proc in procs]
    assert [proc.returncode for proc in procs] == [0] * world_size, "\n".join(outputs)
    results: Results = json.loads((folder / "result-0.json").read_text())
    return {**results, "printed": outputs, "folder": folder}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two ranks; each stage also goes on from its own fragments."""
    folder = tmp_path_factory.mktemp("ranks") / "two"
    again = tuple(Case(name=f"again-{stage}", stage=stage, source=str(folder / f"adamw-{stage}")) for stage in _STAGES)
    return _spawn(folder, (*_PLAIN, *again, *_POISONED), world_size=2)


@pytest.fixture(scope="module")
def one(two: Results) -> Results:
    """One rank that goes on from the fragments of two, at another stage, or without DeepSpeed."""
    saved = [str(two["folder"] / f"adamw-{stage}") for stage in _STAGES]
    moved = (Case(name=f"moved-{stage}", stage=(stage + 1) % 4, source=saved[stage], accumulation=1) for stage in _STAGES)
    return _spawn(two["folder"].with_name("one"), (*moved, Case(name="torch", source=saved[3], is_torch=True)), world_size=1)


@pytest.fixture(scope="module")
def special(two: Results) -> Results:
    """Two ranks with what costs time: number formats, offload, recomputed activations."""
    return _spawn(two["folder"].with_name("special"), (*_OFFLOADED, *_RECOMPUTED, *_HALF, *_OVERFLOWING), world_size=2)


def _names(cases: tuple[Case, ...]) -> list[str]:
    return [case.name for case in cases]


def _losses(result: dict[str, Any]) -> list[float]:
    return [loss for loss, _, _ in result["steps"]]


def _norms(result: dict[str, Any]) -> list[float]:
    return [norm for _, norm, _ in result["steps"]]


@pytest.mark.parametrize("case", _PLAIN, ids=_names(_PLAIN))
def test_two_ranks_learn_what_one_plain_process_learns(two: Results, case: Case) -> None:
    result, reference = two[case.name], two[f"reference-{case.optimizer}"]
    assert _losses(result) == pytest.approx(_losses(reference), abs=_TOLERANCE)
    assert _norms(result) == pytest.approx(_norms(reference), abs=_TOLERANCE)


@pytest.mark.parametrize("case", _PLAIN, ids=_names(_PLAIN))
def test_the_model_is_judged_as_one_plain_process_judges_it(two: Results, case: Case) -> None:
    result = two[case.name]
    assert result["outputs"] == pytest.approx(two[f"reference-{case.optimizer}"]["outputs"], abs=_TOLERANCE)
    assert result["is_training"]


@pytest.mark.parametrize("case", _PLAIN, ids=_names(_PLAIN))
def test_other_weights_can_take_the_place_of_the_own_ones_for_a_while(two: Results, case: Case) -> None:
    result = two[case.name]
    assert result["swapped"] == pytest.approx(two[f"reference-{case.optimizer}"]["swapped"], abs=_TOLERANCE)
    assert result["is_back"]


@pytest.mark.parametrize("case", _PLAIN, ids=_names(_PLAIN))
def test_the_ranks_hold_every_element_once_or_all_of_it_each(two: Results, case: Case) -> None:
    saved = [torch.load(two["folder"] / case.name / f"{rank}.pt", weights_only=True)["fragments"] for rank in range(2)]
    ours = [entry for entry in saved[0] if entry[-1]] + [entry for part in saved for entry in part if not entry[-1]]
    held: Counter[tuple[str, str, int]] = Counter()
    for slot, name, start, _, tensor, _ in ours:
        held.update((slot, name, index) for index in range(start, start + len(tensor)))
    assert set(held.values()) == {1}
    totals = {(slot, name): total for slot, name, _, total, _, _ in ours}
    assert len(held) == sum(totals.values())
    assert {name for slot, name in totals if slot == "weights"} > {"tied.weight", "frozen.bias", "blocks.1.gain"}


@pytest.mark.parametrize(("name", "memories"), [("adamw-1", 2), ("adamw-2", 2), ("adamw-3", 1)])
def test_fp32_weights_and_what_is_stepped_are_one_memory(two: Results, name: str, memories: int) -> None:
    assert two[name]["memories"] == memories  # one for each group of parameters, or one for all of them


@pytest.mark.parametrize("stage", _STAGES)
def test_the_same_world_goes_on_bit_for_bit(two: Results, stage: int) -> None:
    assert two[f"again-{stage}"]["steps"] == two[f"adamw-{stage}"]["steps"][SAVED:]


@pytest.mark.parametrize("stage", _STAGES)
def test_another_world_goes_on_at_another_stage(two: Results, one: Results, stage: int) -> None:
    assert _losses(one[f"moved-{stage}"]) == pytest.approx(_losses(two[f"adamw-{stage}"])[SAVED:], abs=_TOLERANCE)


def test_a_process_without_deepspeed_goes_on(two: Results, one: Results) -> None:
    assert _losses(one["torch"]) == pytest.approx(_losses(two["adamw-3"])[SAVED:], abs=_TOLERANCE)


@pytest.mark.parametrize("case", _POISONED, ids=_names(_POISONED))
def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(two: Results, case: Case) -> None:
    steps = two[case.name]["steps"]
    assert [is_applied for _, _, is_applied in steps] == [True, False, True, True, True, True]
    assert _losses(two[case.name])[2:] == pytest.approx(_losses(two["poisoned-0"])[2:], abs=_TOLERANCE)
    assert two[case.name]["scalars"]["num_steps"] == 5


def test_starting_deepspeed_prints_nothing(two: Results) -> None:
    assert two["printed"] == ["", ""]


@pytest.mark.slow
@pytest.mark.parametrize("case", _OFFLOADED + _RECOMPUTED, ids=_names(_OFFLOADED + _RECOMPUTED))
def test_memory_is_saved_without_a_change_in_what_is_learnt(special: Results, two: Results, case: Case) -> None:
    assert _losses(special[case.name]) == pytest.approx(_losses(two[f"adamw-{case.stage}"]), abs=_TOLERANCE)
    assert special[case.name]["warnings"] == []


@pytest.mark.slow
@pytest.mark.parametrize("case", _HALF, ids=_names(_HALF))
def test_half_precision_learns_nearly_the_same(special: Results, case: Case) -> None:
    result = special[case.name]
    assert _losses(result) == pytest.approx(_losses(special["reference-adamw"]), abs=_HALF_TOLERANCE)
    assert _losses(result) != pytest.approx(_losses(special["reference-adamw"]), abs=_TOLERANCE)
    assert result["is_back"]


@pytest.mark.slow
@pytest.mark.parametrize("case", _OVERFLOWING, ids=_names(_OVERFLOWING))
def test_fp16_halves_its_scale_until_the_gradient_fits(special: Results, case: Case) -> None:
    result = special[case.name]
    num_skipped = sum(not is_applied for _, _, is_applied in result["steps"])
    assert num_skipped > 0
    assert result["scalars"]["loss_scale"] == 2.0 ** (32 - num_skipped)
    assert result["scalars"]["deepspeed_skipped_steps"] == num_skipped
    assert _losses(result) == pytest.approx(_losses(special["overflowing-0"]), abs=_TOLERANCE)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_learns_the_same(two: Results) -> None:
    case = Case(name="compiled", stage=2, teacher={"compile": True, "activation_checkpointing": True})
    result = _spawn(two["folder"].with_name("compiled"), (case,), world_size=1)
    assert _losses(result["compiled"]) == pytest.approx(_losses(two["reference-adamw"]), abs=_TOLERANCE)
