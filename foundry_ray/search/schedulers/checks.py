"""Which schedulers can work on which spaces, said before anything starts."""

from __future__ import annotations

from foundry_ray.config import SchedulerConfig
from foundry_ray.errors import ConfigError, SearchSpaceError
from foundry_ray.search.schedulers.explore import CHANGEABLE
from foundry_ray.types import SearchSpace

_KEY = "search.scheduler"


def check_scheduler(config: SchedulerConfig, space: SearchSpace, *, trials: int) -> None:
    """See that the scheduler can work on this space, within so many trials.

    Raises:
        ConfigError: It compares trials at rungs, and there is one; it compares one number, and there are several objectives; its population is
            larger than the budget.
        SearchSpaceError: A parameter cannot change while a model trains, and it would change it.
    """
    if config.kind in ("hyperband", "median", "pbt") and len(config.rungs) == 1:
        message = f"{_KEY}.rungs is {list(config.rungs)} and {_KEY}.kind is {config.kind}, wanted at least two rungs to compare trials at."
        raise ConfigError(message, hint=f"write `rungs: [{max(1, config.rungs[0] // 3)}, {max(2, config.rungs[0])}]`, or `kind: none`.")
    if config.kind == "median" and len(space.objectives) > 1:
        message = f"{_KEY}.kind is median and there are {len(space.objectives)} objectives, wanted one: a median needs numbers in one order."
        raise ConfigError(message, hint=f"keep `{space.objectives[0].metric}` alone under `search.objectives`, or set `{_KEY}.kind: asha`.")
    if config.kind == "pbt":
        _check_population(config, space, trials)


def _check_population(config: SchedulerConfig, space: SearchSpace, trials: int) -> None:
    if config.population > trials:
        message = f"{_KEY}.population is {config.population} and search.budget.trials is {trials}, wanted at least as many trials as members."
        raise ConfigError(message, hint=f"raise `search.budget.trials` to {config.population}, or lower `{_KEY}.population` to {trials}.")
    fixed = [param.name for param in space.params if param.name not in CHANGEABLE]
    if fixed:
        message = (
            f"search.space varies {', '.join(fixed)} and {_KEY}.kind is pbt, which changes parameters while a model trains; "
            f"wanted only those that keep its shapes, its optimizer and its steps: {', '.join(CHANGEABLE)}."
        )
        raise SearchSpaceError(message, hint=f"take {fixed[0]} out of the space, or set `{_KEY}.kind: asha`.", param=fixed[0])
