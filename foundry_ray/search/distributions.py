"""Parameters as Optuna's distributions: what its samplers, its importances and its storages want to know of a range.

Of trials that are over they are taken from the space that their study kept; where there is none, they are told from the values themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foundry_ray.search.points import limits
from foundry_ray.types import Param, Scalar, SearchSpace, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_WIDE = 50.0
"""A range of positive numbers whose ends differ by this factor is taken for a logarithmic one, where nothing says so."""
_OFF_STEP = 1e-8
"""In steps: what is farther from one, Optuna takes for a value of another range."""


def distributions(trials: Sequence[Trial], space: SearchSpace | None) -> dict[str, BaseDistribution]:
    """One a parameter that any trial has, in the order of the space."""
    known = {param.name: param for param in space.params} if space is not None else {}
    values: dict[str, list[Scalar]] = {name: [] for name in known}
    for trial in trials:
        for name, value in trial.params.items():
            values.setdefault(name, []).append(value)
    return {name: _distribution(known.get(name), seen) for name, seen in values.items() if seen}


def is_from_space(found: Mapping[str, BaseDistribution], space: SearchSpace | None) -> bool:
    """Whether all of them are ranges of the space, and none is told from values."""
    params = {param.name: param for param in space.params} if space is not None else {}
    return all(name in params and distribution == distribution_of(params[name]) for name, distribution in found.items())


def distribution_of(param: Param) -> BaseDistribution:
    """The distribution of a parameter of a space."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if param.kind == "categorical":
        return CategoricalDistribution(list(param.choices))
    low, high = limits(param)
    if param.kind == "int":
        return IntDistribution(int(low), int(high), step=int(param.step or 1), log=param.log)
    return FloatDistribution(low, high, step=param.step, log=param.log)


def _distribution(param: Param | None, seen: Sequence[Scalar]) -> BaseDistribution:
    """That of the parameter, if all values could have come from it."""
    if param is not None and all(_could_be(param, value) for value in seen):
        return distribution_of(param)
    return _told_from(seen)


def _could_be(param: Param, value: Scalar) -> bool:
    if param.kind == "categorical":
        return value in param.choices
    if isinstance(value, (bool, str)) or (param.kind == "int" and not isinstance(value, int)):
        return False
    low, high = limits(param)
    num_steps = (value - low) / param.step if param.step else 0.0
    return low <= value <= high and abs(num_steps - round(num_steps)) < _OFF_STEP


def _told_from(seen: Sequence[Scalar]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    numbers = [value for value in seen if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(seen):
        return CategoricalDistribution(sorted(set(seen), key=lambda value: (str(type(value)), value)))
    low, high = min(numbers), max(numbers)
    is_wide = low > 0 and high / low >= _WIDE
    if all(isinstance(value, int) for value in numbers):
        return IntDistribution(int(low), int(high), log=is_wide)
    return FloatDistribution(float(low), float(high), log=is_wide)
