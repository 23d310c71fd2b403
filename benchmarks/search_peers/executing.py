"""How a coordinator's jobs are carried out on Ray: the one place of the benchmarks that knows the executor."""

from __future__ import annotations

import secrets

from foundry_ray.context import Context
from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.tune_adapter import Environment, Slots, TuneExecutor, plan_slots


def execute(coordinator: Coordinator, environment: Environment, *, context: Context, num_slots: int | None = None) -> None:
    """Until nothing is left to do; on all CPUs, or on so many."""
    planned = plan_slots(context.session.resources())
    slots = Slots(count=num_slots or planned.count, cpus=planned.cpus, gpus=planned.gpus)
    scratch = context.settings.home / "scratch" / secrets.token_hex(4)
    TuneExecutor(environment, slots=slots, scratch=scratch, reporter=context.reporter).run(coordinator)
    coordinator.close()
