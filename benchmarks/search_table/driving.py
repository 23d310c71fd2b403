"""The product's coordinator without Ray: built here for all benchmarks that play a study."""

from __future__ import annotations

from foundry_ray.config import BudgetConfig, SchedulerConfig
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.opening import StudyPlace, open_study
from foundry_ray.search.policy import parse_policy
from foundry_ray.search.rules import Proposing, Rules
from foundry_ray.search.transfer import StudyIdentity
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import CompressionRecipe, SearchSpace

ASHA = SchedulerConfig(kind="asha", rungs=(1, 3, 9), reduction_factor=3.0)
TO_THE_END = SchedulerConfig(kind="none", rungs=(1,))
STUDY = "benchmark"


def coordinator(
    space: SearchSpace,
    sampler: Proposing,
    *,
    scheduler: SchedulerConfig,
    num_trials: int,
    seed: int,
    clock: Clock,
    store: ArtifactStore | None = None,
) -> Coordinator:
    """A new study; its journal is in `store`, or else in memory."""
    rules = Rules(
        space=space,
        scheduler=scheduler,
        budget=BudgetConfig(trials=num_trials),
        sampler=sampler,
        policy=parse_policy("knee"),
        teacher_accuracy=1.0,
        seed=seed,
        trial_seed=seed,
        max_failures=0,
        recipe_of=lambda params: CompressionRecipe(),
    )
    identity = StudyIdentity(space=space, dataset="benchmark", teacher="none", training="", levels=scheduler.rungs, teacher_accuracy=1.0)
    place = StudyPlace(store=store or MemoryStore(), study_key=STUDY, driver="benchmark")
    return open_study(rules, identity, place=place, clock=clock)
