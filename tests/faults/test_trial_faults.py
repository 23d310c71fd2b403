"""Real trials, killed and taken up again: the same trials with the same values as the unbroken study, bit for bit, and on another device too.

Tiny students on squares of eight pixels, with a recorded latency meter and one worker. `--moments all` kills at twenty moments.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch

from foundry_ray.config import BudgetConfig, SchedulerConfig
from foundry_ray.search.opening import StudyPlace, open_study
from foundry_ray.search.policy import parse_policy
from foundry_ray.search.rules import Rules
from foundry_ray.search.samplers import Sampler
from foundry_ray.search.transfer import StudyIdentity
from foundry_ray.search.trial import TrialContext
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.executors import SerialExecutor
from foundry_ray.testing.search import OBJECTIVES, RecordedLatencyMeter
from foundry_ray.testing.stores import MemoryStore, MortalStore
from foundry_ray.testing.trials import tiny_context, tiny_runner
from foundry_ray.types import CompressionRecipe, Param, SearchSpace, Trial

SPACE = SearchSpace(
    params=(
        Param(name="lr", kind="float", low=1e-3, high=1e-1, log=True),
        Param(name="width", kind="int", low=4, high=8, step=2),
        Param(name="depth", kind="int", low=1, high=1),
        Param(name="weight_bits", kind="categorical", choices=(8, 32)),
    ),
    objectives=OBJECTIVES,
)
_NUM_TRIALS = 8
_ABOUT_40_EVENTS = 40


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(20 if metafunc.config.getoption("--moments") == "all" else 3))


@dataclass
class Driver:
    """One process at a study of real trials."""

    store: MemoryStore
    name: str
    meter: RecordedLatencyMeter = field(default_factory=RecordedLatencyMeter)

    def run(self, *, budget: int | None = None) -> list[Trial]:
        mortal, clock = MortalStore(self.store), FakeClock()
        place = StudyPlace(store=mortal, study_key="s", driver=self.name)
        identity = StudyIdentity(space=SPACE, dataset="d", teacher="t", training="x", levels=(1, 2, 4), teacher_accuracy=0.9)
        coordinator = open_study(_rules(), identity, place=place, clock=clock)
        coordinator.on_device(self.meter.device_fingerprint())
        runner = tiny_runner(_context(), mortal, meter=self.meter)
        if SerialExecutor(runner, clock=clock, budget=budget).run(coordinator):
            coordinator.close()
        else:
            mortal.die()
        return coordinator.course.state.trials()


def _rules() -> Rules:
    return Rules(
        space=SPACE,
        scheduler=SchedulerConfig(rungs=(1, 2, 4), reduction_factor=2.0),
        budget=BudgetConfig(trials=_NUM_TRIALS),
        sampler=Sampler(kind="tpe", space=SPACE, objectives=OBJECTIVES, seed=0),
        policy=parse_policy("knee"),
        teacher_accuracy=0.9,
        seed=0,
        trial_seed=3,
        max_failures=1,
        recipe_of=lambda params: CompressionRecipe(),
    )


def _context() -> TrialContext:
    return replace(tiny_context(), objectives=tuple(one.metric for one in OBJECTIVES))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As a worker of a study has it; more of them wait for each other where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(one_thread: None) -> list[Trial]:
    return Driver(MemoryStore(), "only").run()


def test_a_killed_study_of_real_trials_is_the_unbroken_one(unbroken: list[Trial], seed: int) -> None:
    store = MemoryStore()
    Driver(store, "first").run(budget=random.Random(seed).randrange(1, _ABOUT_40_EVENTS))
    again = Driver(store, "second").run()
    assert [_without_time(trial) for trial in again] == [_without_time(trial) for trial in unbroken]


def test_on_another_device_each_graph_is_measured_again_and_nothing_is_trained_twice(unbroken: list[Trial]) -> None:
    store = MemoryStore()
    Driver(store, "laptop").run(budget=_ABOUT_40_EVENTS // 2)
    slower = RecordedLatencyMeter(lambda onnx: len(onnx) / 1e4, device="server")
    trials = Driver(store, "server", slower).run()
    measured = [trial for trial in trials if trial.values]
    assert {trial.device for trial in measured} == {"server"}
    assert all(trial.values["latency_p50_ms"] == pytest.approx(trial.values["size_bytes"] / 1e4) for trial in measured)
    first = {trial.number: trial.curve[0]["accuracy"] for trial in unbroken if trial.curve}
    same = [trial for trial in trials if trial.curve and trial.params == unbroken[trial.number].params]
    assert same
    assert all(trial.curve[0]["accuracy"] == first[trial.number] for trial in same if trial.number in first)


def _without_time(trial: Trial) -> Trial:
    return replace(trial, duration_s=0.0)
