"""The product's coordinator without Ray: built here for all benchmarks that play a study."""

from __future__ import annotations

from collections.abc import Callable

from foundry_ray.config import BudgetConfig, SchedulerConfig
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.search.coordinator import Coordinator, Rules
from foundry_ray.search.events import Event
from foundry_ray.search.journal import Journal
from foundry_ray.search.policy import parse_policy
from foundry_ray.search.sampler import Sampler
from foundry_ray.search.state import StudyState
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import CompressionRecipe

ASHA = SchedulerConfig(kind="asha", rungs=(1, 3, 9), reduction_factor=3.0)
TO_THE_END = SchedulerConfig(kind="none", rungs=(1,))


def coordinator(
    sampler: Sampler,
    *,
    scheduler: SchedulerConfig,
    num_trials: int,
    seed: int,
    clock: Clock,
    store: ArtifactStore | None = None,
    on_change: Callable[[Event], None] | None = None,
) -> Coordinator:
    """A new study; its journal is in `store`, or else in memory."""
    rules = Rules(
        scheduler=scheduler,
        budget=BudgetConfig(trials=num_trials),
        sampler=sampler,
        policy=parse_policy("knee"),
        teacher_accuracy=1.0,
        trial_seed=seed,
    )
    num_rungs = len(scheduler.rungs) if scheduler.kind == "asha" else 1
    state = StudyState(recipe_of=lambda params: CompressionRecipe(), num_rungs=num_rungs, max_failures=0)
    journal = Journal(store or MemoryStore(), "studies/benchmark/journal", driver="benchmark")
    state.replay(journal.open())
    return Coordinator(rules, state=state, journal=journal, clock=clock, on_change=on_change)
