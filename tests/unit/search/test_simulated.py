"""A whole study in simulated time, and what its decisions cost."""

from __future__ import annotations

import pytest

from foundry_ray.testing.executors import SimulatedExecutor
from foundry_ray.testing.search import SyntheticStudy
from foundry_ray.testing.stores import MemoryStore


def _simulate(study: SyntheticStudy, num_workers: int, cpu_s: float) -> tuple[float, SimulatedExecutor]:
    """Each look at the process' CPU time finds that so much more of it was spent."""
    spent = iter(range(10**9))
    executor = SimulatedExecutor(study.runner, clock=study.clock, num_workers=num_workers, cpu_s=lambda: next(spent) * cpu_s)
    return executor.run(study.coordinator), executor


def test_without_a_cost_all_workers_are_busy_all_the_time() -> None:
    study = SyntheticStudy(MemoryStore(), kind="none", sampler="random", num_trials=160)
    seconds, _ = _simulate(study, 16, 0.0)
    assert seconds == 9 * 160 / 16


def test_what_the_driver_computes_holds_up_the_workers_that_wait_for_it() -> None:
    study = SyntheticStudy(MemoryStore(), kind="none", sampler="random", num_trials=32)
    seconds, executor = _simulate(study, 16, 0.1)
    ideal_s = 9 * 32 / 16
    assert executor.driver_s > 32 * 0.1
    assert ideal_s + 1 < seconds <= ideal_s + executor.driver_s


def test_a_worker_goes_on_after_an_event_when_the_driver_has_taken_note_of_it() -> None:
    alone = SyntheticStudy(MemoryStore(), kind="none", sampler="random", num_trials=1)
    seconds, executor = _simulate(alone, 1, 0.1)
    assert executor.driver_s >= 11 * 0.1, "it is prepared, nine epochs, and its end"
    assert seconds == pytest.approx(9 + executor.driver_s)


def test_a_simulated_study_is_the_same_study() -> None:
    simulated, serial = (SyntheticStudy(MemoryStore(), num_trials=12) for _ in range(2))
    _simulate(simulated, 1, 0.0)
    assert simulated.state.trials() == serial.run()
