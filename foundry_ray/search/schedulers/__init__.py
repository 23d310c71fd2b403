"""Who goes on, and who is stopped: pure policies. `facts` is the seam to the study; the other files are one policy each, and what they share."""

from foundry_ray.config import SchedulerConfig
from foundry_ray.search.schedulers.asha import Asha
from foundry_ray.search.schedulers.checks import check_scheduler
from foundry_ray.search.schedulers.facts import Scheduler
from foundry_ray.search.schedulers.hyperband import Hyperband
from foundry_ray.search.schedulers.median import Median
from foundry_ray.search.schedulers.none import RunToTheEnd
from foundry_ray.search.schedulers.pbt import PopulationBased
from foundry_ray.types import SearchSpace

__all__ = ["check_scheduler", "make_scheduler"]


def make_scheduler(config: SchedulerConfig, space: SearchSpace, *, seed: int) -> Scheduler:
    """The scheduler that a configuration asks for, before any fact.

    Args:
        seed: The study's; only `pbt` draws lots.
    """
    levels = config.rungs
    if config.kind == "asha":
        return Asha(levels, reduction_factor=config.reduction_factor)
    if config.kind == "hyperband":
        return Hyperband(levels, reduction_factor=config.reduction_factor)
    if config.kind == "median":
        return Median(levels, min_results=config.min_results)
    if config.kind == "pbt":
        return PopulationBased(
            levels,
            space=space,
            population=config.population,
            quantile=config.quantile,
            resample_ratio=config.resample_ratio,
            seed=seed,
        )
    return RunToTheEnd(levels[-1])
