"""How a study looks to a sampler of Optuna, and how the sampler is asked: by Optuna's ask/tell.

Optuna's own storages copy each trial that they are given, and can neither let one go nor give it other values. `_Shown` holds the trials that
it is handed, so that a proposal costs what the sampler costs, and each ask may be told another selection of trials.
"""

from __future__ import annotations

import datetime
from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from foundry_ray.search.distributions import distribution_of
from foundry_ray.search.points import in_order, is_active, limits
from foundry_ray.search.samplers.observing import Observation
from foundry_ray.types import Param, Scalar, SearchSpace

_WHEN = datetime.datetime(2000, 1, 1)
"""Optuna wants to know when a trial was; no sampler looks at it."""


class Asking:
    """An Optuna study that remembers no trial: what a sampler sees is what `show` was given last."""

    def __init__(self, space: SearchSpace, num_objectives: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._params = in_order(space.params)
        self._distributions = {param.name: distribution_of(param) for param in self._params}
        self._num_objectives = num_objectives
        self._known: dict[int, tuple[Observation, tuple[float, ...], FrozenTrial]] = {}
        self.forget()

    def forget(self) -> None:
        """Begin a new study, without what samplers noted of the one before."""
        self._shown = _Shown()
        self.study = optuna.create_study(directions=["minimize"] * self._num_objectives, storage=self._shown)
        self._study_id = self._shown.get_study_id_from_name(self.study.study_name)

    def notes(self) -> Mapping[str, Any]:
        """What samplers noted of the study as a whole."""
        return dict(self._shown.get_study_system_attrs(self._study_id))

    def note(self, key: str, value: Any) -> None:
        """Let a sampler find this note."""
        self._shown.set_study_system_attr(self._study_id, key, value)

    def show(self, trials: Sequence[FrozenTrial]) -> None:
        """Let these be all trials that there are."""
        self._shown.trials = list(trials)

    def ask(self, sampler: BaseSampler, *, number: int) -> tuple[dict[str, Scalar], dict[str, Any]]:
        """Parameters of trial `number`, and everything that the sampler notes of it."""
        self._shown.number = number
        self.study.sampler = sampler
        asked = self.study.ask()
        chosen: dict[str, Scalar] = {}
        for param in self._params:
            if is_active(param, chosen):
                chosen[param.name] = _suggest(asked, param)
        return chosen, dict(self._shown.trials.pop().system_attrs)

    def trials(self, seen: Sequence[Observation], *, attrs: Mapping[str, object] | None = None) -> list[FrozenTrial]:
        """The observations as trials. One that broke a constraint has the worst losses of the others, because Optuna wants numbers.

        A trial of the call before is made anew only where something of it is another one, so that a long study costs little.

        Args:
            attrs: What the sampler is to find noted of each.
        """
        worst, are_bound = worst_losses(seen, self._num_objectives), any(one.excess > 0 for one in seen)
        known, self._known = self._known, {}
        for one in seen:
            told: tuple[float, ...] = () if one.is_running else (*(one.losses or worst), *((one.excess,) if are_bound else ()))
            made = known.get(one.number)
            if attrs is not None or made is None or made[0] is not one or made[1] != told:
                losses = None if one.is_running else one.losses or worst
                made = (one, told, self.trial(one, losses, excess=one.excess if are_bound else None, attrs=attrs))
            self._known[one.number] = made
        return [made[2] for made in self._known.values()]

    def trial(
        self, one: Observation, losses: Sequence[float] | None, *, excess: float | None = None, attrs: Mapping[str, object] | None = None
    ) -> FrozenTrial:
        """One observation as a trial with these losses, with `attrs` for the sampler to find."""
        params = {name: value for name, value in one.params.items() if name in self._distributions}
        trial = FrozenTrial(
            number=one.number,
            trial_id=one.number,
            state=TrialState.RUNNING if losses is None else TrialState.COMPLETE,
            value=None,
            values=losses,
            datetime_start=_WHEN,
            datetime_complete=None if losses is None else _WHEN,
            params={name: _as_optuna_has_it(value, self._distributions[name]) for name, value in params.items()},
            distributions={name: self._distributions[name] for name in params},
            user_attrs={},
            system_attrs=dict(attrs or {}),
            intermediate_values={},
        )
        if excess is not None:
            trial.set_constraint("excess", excess)
        return trial


def worst_losses(seen: Sequence[Observation], num_objectives: int) -> tuple[float, ...]:
    """The largest loss of each objective among those that have them."""
    known = [one.losses for one in seen if one.losses]
    return tuple(map(max, zip(*known, strict=True))) if known else (0.0,) * num_objectives


class _Shown(optuna.storages.InMemoryStorage):  # type: ignore[misc]
    """Shows the trials that it is given, and behind them the one that is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.trials: list[FrozenTrial] = []
        self.number = 0

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        running = optuna.trial.create_trial(state=TrialState.RUNNING)
        running.number = running._trial_id = self.number
        self.trials.append(running)
        return self.number

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return next(trial for trial in reversed(self.trials) if trial._trial_id == trial_id)

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return [trial for trial in self.trials if states is None or trial.state in states]

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution) -> None:
        trial = self.get_trial(trial_id)
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: object) -> None:
        self.get_trial(trial_id).system_attrs[key] = value


def _suggest(trial: optuna.Trial, param: Param) -> Scalar:
    if param.kind == "categorical":
        choice: Scalar = trial.suggest_categorical(param.name, list(param.choices))
        return choice
    low, high = limits(param)
    if param.kind == "int":
        return int(trial.suggest_int(param.name, int(low), int(high), step=int(param.step or 1), log=param.log))
    value = float(trial.suggest_float(param.name, low, high, step=param.step, log=param.log))
    return round(value, 12) if param.step else value


def _as_optuna_has_it(value: Scalar, distribution: BaseDistribution) -> Scalar:
    """The value with the last bits that Optuna's own arithmetic gives it, inside the range: what is stored is rounded to 12 digits."""
    if isinstance(distribution, CategoricalDistribution):
        return value
    if distribution.step is None or distribution.log:
        inside = float(value)
    else:
        inside = round((float(value) - distribution.low) / distribution.step) * distribution.step + distribution.low
    inside = min(max(inside, distribution.low), distribution.high)
    return int(inside) if isinstance(distribution, IntDistribution) else inside
