"""With no rule of ours applying, a proposal is what Optuna's own study proposes, to the last bit.

Optuna's samplers are made here as its users make them, and not as the product does; but each ask has a random state of its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import optuna
import pytest

from foundry_ray.search import pareto
from foundry_ray.search.distributions import distribution_of
from foundry_ray.search.points import limits
from foundry_ray.search.samplers import Kind, ask_seed, generations
from foundry_ray.search.samplers.proposal import hashed
from foundry_ray.search.state import TrialRecord
from foundry_ray.types import Param, Scalar, SearchSpace, TrialState
from tests.unit.search import _sampling as small


def _plain(kind: Kind, number: int, num_params: int, *, is_liar: bool) -> optuna.samplers.BaseSampler:
    """Optuna's sampler with its defaults, seeded for this ask as ours is; `is_liar` is a default that matters beside running trials alone."""
    seed = ask_seed(3, number)
    if kind == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=is_liar)
    if kind == "bohb" and hashed(f"3/bohb/{number}") % 3:
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=num_params + 3, constant_liar=is_liar)
    if kind == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    if kind == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
    if kind == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed)
    if kind == "qmc":
        first = optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=hashed("3/sobol/0"), independent_sampler=first)
    return optuna.samplers.RandomSampler(seed=seed)


def _suggested(trial: optuna.Trial, param: Param) -> Scalar:
    if param.kind == "categorical":
        choice: Scalar = trial.suggest_categorical(param.name, list(param.choices))
        return choice
    low, high = limits(param)
    if param.kind == "int":
        return int(trial.suggest_int(param.name, int(low), int(high), step=int(param.step or 1), log=param.log))
    return float(trial.suggest_float(param.name, low, high, step=param.step, log=param.log))


def _asked(
    study: optuna.Study, kind: Kind, number: int, space: SearchSpace = small.PLAIN, *, is_liar: bool = True
) -> tuple[optuna.trial.Trial, dict[str, Scalar]]:
    """What Optuna proposes, as we write it down."""
    study.sampler = _plain(kind, number, len(space.params), is_liar=is_liar)
    trial = study.ask()
    plain = {param.name: _suggested(trial, param) for param in space.params}
    return trial, {name: round(value, 12) if name == "ratio" else value for name, value in plain.items()}


@pytest.mark.parametrize(
    ("kind", "num_objectives", "num_trials"),
    [
        ("random", 1, 12),
        ("qmc", 1, 20),
        ("qmc", 3, 12),
        ("tpe", 1, 50),
        ("tpe", 3, 40),
        ("nsga2", 1, 70),
        ("nsga2", 3, 90),
        ("cmaes", 1, 60),
        ("gp", 1, 12),
        ("gp", 2, 12),
        ("bohb", 1, 30),
        ("bohb", 3, 30),
    ],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_proposals_are_those_of_a_plain_optuna_study(kind: Kind, num_objectives: int, num_trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations.Nsga2, "avoids_tried", False)  # its children are often the image of a parent, which we draw again
    space: SearchSpace = small.NUMBERS if kind == "cmaes" else small.PLAIN
    objectives = small.OBJECTIVES[:num_objectives]
    ours = small.sampler(kind, space, objectives, seed=3)
    study = optuna.create_study(directions=["minimize"] * num_objectives)
    records = {}
    for number in range(num_trials):
        proposal = ours.propose(records, number)
        trial, plain = _asked(study, kind, number, space)
        assert proposal.params == plain
        values = small.worth(proposal.params)
        study.tell(trial, list(pareto.losses(values, objectives)))
        records[number] = small.record(number, proposal.params, values, attrs=proposal.attrs, state=TrialState.COMPLETE)


@pytest.mark.parametrize(("kind", "num_objectives", "num_trials"), [("tpe", 1, 45), ("tpe", 3, 45), ("bohb", 1, 30), ("gp", 1, 14), ("gp", 2, 14)])
def test_proposals_beside_running_trials_are_those_of_optuna_without_its_lie(kind: Kind, num_objectives: int, num_trials: int) -> None:
    objectives, dice = small.OBJECTIVES[:num_objectives], random.Random(1)
    ours, study = small.sampler(kind, small.PLAIN, objectives, seed=3), optuna.create_study(directions=["minimize"] * num_objectives)
    records, running = dict[int, TrialRecord](), dict[int, optuna.trial.Trial]()
    for number in range(num_trials):
        proposal = ours.propose(records, number)
        running[number], plain = _asked(study, kind, number, is_liar=False)
        assert proposal.params == plain
        records[number] = small.record(number, plain, state=TrialState.RUNNING)
        if len(running) == 4:
            done = dice.choice(sorted(running))
            values = small.worth(records[done].trial.params)
            study.tell(running.pop(done), list(pareto.losses(values, objectives)))
            records[done] = small.record(done, records[done].trial.params, values)


def _excess(params: Mapping[str, Scalar], limit: float) -> float:
    """No two points break the limit by the same amount: only then Optuna does not look at the losses of those that do."""
    over, others = float(params["alpha"]) - limit, float(params["lr"]) + float(params["ratio"]) / 10 + float(params["width"]) / 100
    return over + (others + float(params["depth"]) / 1000) / 1000 if over > 0 else 0.0


@pytest.mark.parametrize(("kind", "num_objectives", "num_trials"), [("tpe", 1, 45), ("tpe", 3, 45), ("nsga2", 1, 70), ("nsga2", 3, 70)])
def test_proposals_beside_broken_limits_are_those_of_optunas_constraints(
    kind: Kind, num_objectives: int, num_trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations.Nsga2, "avoids_tried", False)
    objectives = small.OBJECTIVES[:num_objectives]
    ours, study = small.sampler(kind, small.PLAIN, objectives, seed=3), optuna.create_study(directions=["minimize"] * num_objectives)
    records = dict[int, TrialRecord]()
    for number in range(num_trials):
        proposal = ours.propose(records, number)
        trial, plain = _asked(study, kind, number)
        assert proposal.params == plain
        values, excess = small.worth(plain), _excess(plain, 0.31)
        trial.set_constraint("alpha", excess)
        study.tell(trial, list(pareto.losses(values, objectives)))
        told = {"state": TrialState.INFEASIBLE, "excess": excess} if excess else {"state": TrialState.COMPLETE}
        records[number] = small.record(number, plain, *([] if excess else [values]), attrs=proposal.attrs, **told)
    assert all(record.excess for record in list(records.values())[:10]), "those that break it least are learnt from"


@pytest.mark.parametrize("num_objectives", [1, 2])
def test_a_gaussian_process_is_told_of_broken_limits_with_the_worst_losses_of_the_others(num_objectives: int) -> None:
    objectives = small.OBJECTIVES[:num_objectives]
    points = [record.trial.params for record in small.finished(small.sampler("random"), 14).values()]
    known = [pareto.losses(small.worth(params), objectives) for params in points if not _excess(params, 0.6)]
    worst = [max(column) for column in zip(*known, strict=True)]
    study, records = optuna.create_study(directions=["minimize"] * num_objectives), dict[int, TrialRecord]()
    for number, params in enumerate(points):
        values, excess = small.worth(params), _excess(params, 0.6)
        ranges = {param.name: distribution_of(param) for param in small.PLAIN.params}
        losses = worst if excess else list(pareto.losses(values, objectives))
        study.add_trial(optuna.create_trial(params=dict(params), distributions=ranges, values=losses, constraints={"alpha": excess}))
        state = TrialState.INFEASIBLE if excess else TrialState.COMPLETE
        records[number] = small.record(number, params, *([] if excess else [values]), state=state, excess=excess)
    proposal = small.sampler("gp", small.PLAIN, objectives, seed=3).propose(records, 14)
    assert proposal.params == pytest.approx(_asked(study, "gp", 14)[1], rel=1e-9), "the study got its stepped numbers rounded"
