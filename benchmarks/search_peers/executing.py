"""How a coordinator's jobs are carried out on Ray: the one place of the benchmarks that knows the executor."""

from __future__ import annotations

from foundry_ray.clock import SystemClock
from foundry_ray.config import TrialConfig
from foundry_ray.context import Context
from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.pool.executor import PoolExecutor
from foundry_ray.search.pool.worker import Environment


def execute(coordinator: Coordinator, environment: Environment, *, context: Context, trial: TrialConfig | None = None) -> None:
    """Until nothing is left to do; with what a trial reserves by default, or this."""
    session = context.session
    executor = PoolExecutor(environment, trial or TrialConfig(), nodes=session.nodes, clock=SystemClock(), reporter=context.reporter)
    executor.run(coordinator)
    coordinator.close()
