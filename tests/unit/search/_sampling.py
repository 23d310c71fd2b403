"""Small studies for the tests of the samplers: spaces, records made by hand, and what a student of these parameters would be worth."""

from __future__ import annotations

import math
from collections.abc import Mapping

from foundry_ray.search.samplers import Kind, Sampler
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import CompressionRecipe, Objective, Param, Scalar, SearchSpace, Trial, TrialState

ACCURACY = Objective(metric="accuracy", mode="max")
SIZE = Objective(metric="size_bytes", mode="min")
MACS = Objective(metric="num_macs", mode="min")
OBJECTIVES = (ACCURACY, SIZE, MACS)

LR = Param(name="lr", kind="float", low=1e-4, high=1e-1, log=True)
RATIO = Param(name="ratio", kind="float", low=0.0, high=0.62, step=0.05)
WIDTH = Param(name="width", kind="int", low=6, high=21, step=2)
DEPTH = Param(name="depth", kind="int", low=1, high=64, log=True)
ALPHA = Param(name="alpha", kind="float", low=0.3, high=0.95)
BITS = Param(name="bits", kind="categorical", choices=(8, 32))
TEMPERATURE = Param(name="temperature", kind="float", low=1.0, high=8.0, when={"bits": (8,)})

NUMBERS = SearchSpace(params=(LR, RATIO, WIDTH, DEPTH, ALPHA), objectives=(ACCURACY,))
PLAIN = SearchSpace(params=(*NUMBERS.params, BITS), objectives=OBJECTIVES)
CONDITIONAL = SearchSpace(params=(TEMPERATURE, RATIO, BITS, WIDTH), objectives=OBJECTIVES)


def worth(params: Mapping[str, Scalar]) -> dict[str, float]:
    """Metrics of a student: smooth, with trade-offs, no two alike."""
    lr, ratio, width = float(params.get("lr", 3e-3)), float(params["ratio"]), float(params["width"])
    alpha, depth, bits = float(params.get("alpha", 0.6)), float(params.get("depth", 1)), float(params.get("bits", 8))
    error = (math.log10(lr) + 2.5) ** 2 / 10 + (ratio - 0.3) ** 2 + (alpha - 0.6) ** 2 / 3 + 0.1 / depth + 1 / width + 0.1 / bits
    return {"accuracy": 1 - error, "size_bytes": width * depth * (1 - ratio) * bits, "num_macs": width * (1.1 - alpha)}


def record(
    number: int,
    params: Mapping[str, Scalar],
    *rungs: Mapping[str, float],
    state: TrialState = TrialState.WAITING,
    attrs: Mapping[str, Scalar] | None = None,
    excess: float = 0.0,
    duplicate_of: int | None = None,
) -> TrialRecord:
    """A trial with these metrics at its first rungs."""
    trial = Trial(trial_id=f"t{number}", number=number, params=dict(params), recipe=CompressionRecipe(), state=state)
    return TrialRecord(trial=trial, by_rung=dict(enumerate(rungs)), attrs=attrs or {}, excess=excess, duplicate_of=duplicate_of)


def sampler(kind: Kind, space: SearchSpace = PLAIN, objectives: tuple[Objective, ...] | None = None, *, seed: int = 0) -> Sampler:
    """A sampler that has seen nothing."""
    return Sampler(kind=kind, space=space, objectives=space.objectives if objectives is None else objectives, seed=seed)


def finished(one: Sampler, num_trials: int, *, records: dict[int, TrialRecord] | None = None) -> dict[int, TrialRecord]:
    """The records of a study in which each trial is finished before the next one is asked."""
    records = {} if records is None else records
    for number in range(len(records), len(records) + num_trials):
        proposal = one.propose(records, number)
        records[number] = record(number, proposal.params, worth(proposal.params), attrs=proposal.attrs)
    return records
