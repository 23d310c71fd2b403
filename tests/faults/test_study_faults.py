"""A study whose driver is killed, at any event and at any operation of its store, and taken up again: the trials of the unbroken one, exactly.

On synthetic curves with one worker, for each kind of scheduler with each kind of sampler. `--moments all` kills after every event.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest

from foundry_ray.config import SchedulerConfig
from foundry_ray.errors import Conflict
from foundry_ray.search.samplers import Kind
from foundry_ray.testing.search import SPACE, SchedulerKind, SyntheticRunner, SyntheticStudy
from foundry_ray.testing.stores import Killed, MemoryStore, MortalStore
from foundry_ray.types import SearchSpace, Trial

_LR, _WIDTH = SPACE.params
_STEPPED = replace(_LR, log=False, low=0.001, high=0.009, step=0.002)
_ALONE = SPACE.objectives[:1]
_SCHEDULERS: tuple[SchedulerKind, ...] = ("asha", "hyperband", "median", "pbt", "none")
_SAMPLERS: tuple[Kind, ...] = ("random", "tpe", "nsga2", "qmc", "gp", "cmaes", "bohb", "grid")
_REFUSED = {("hyperband", "cmaes"), ("hyperband", "nsga2"), ("pbt", "grid")}
_PAIRS = [(scheduler, sampler) for scheduler in _SCHEDULERS for sampler in _SAMPLERS if (scheduler, sampler) not in _REFUSED]
_NUM_FEW = 3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`is_all`: whether the driver dies after every event, and not after a few seeded ones."""
    if "is_all" in metafunc.fixturenames:
        metafunc.parametrize("is_all", [metafunc.config.getoption("--moments") == "all"], ids=["moments"])


def _space(scheduler: SchedulerKind, sampler: Kind) -> SearchSpace:
    params = (_STEPPED if sampler == "grid" else _LR, *(() if scheduler == "pbt" else (_WIDTH,)))
    return SearchSpace(params=params, objectives=_ALONE if scheduler == "median" or sampler == "cmaes" else SPACE.objectives)


def _study(store: object, scheduler: SchedulerKind, sampler: Kind, driver: str = "driver-1") -> SyntheticStudy:
    return SyntheticStudy(
        store,  # type: ignore[arg-type]
        num_trials=14,
        sampler=sampler,
        scheduler=SchedulerConfig(kind=scheduler, population=6, min_results=3),
        space=_space(scheduler, sampler),
        driver=driver,
        runner=SyntheticRunner(max_params=36_000, device="recorded"),
    )


def _moments(num_events: int, name: str, *, is_all: bool) -> list[int]:
    source = random.Random(name)
    few = 1 if " gp" in name else _NUM_FEW  # a Gaussian process is fitted anew for each proposal, which takes seconds a study
    return list(range(1, num_events)) if is_all else sorted(source.sample(range(1, num_events), few))


@pytest.mark.parametrize(("scheduler", "sampler"), _PAIRS)
@pytest.mark.timeout(1800)  # with all moments, GP fits a model for each of some hundred studies
def test_a_killed_and_resumed_study_is_the_unbroken_one(scheduler: SchedulerKind, sampler: Kind, is_all: bool) -> None:
    whole = _study(MemoryStore(), scheduler, sampler)
    expected = whole.run()
    for moment in _moments(len(whole.events), f"{scheduler} {sampler}", is_all=is_all):
        store = MemoryStore()
        _study(store, scheduler, sampler).run(budget=moment)
        again = _study(store, scheduler, sampler, "driver-2")
        again.coordinator.on_device("recorded")
        assert again.run() == expected, f"killed after event {moment}"


def test_a_study_that_is_killed_again_and_again_is_the_unbroken_one(is_all: bool) -> None:
    for seed in range(20 if is_all else 3):
        source, store, attempt = random.Random(seed), MemoryStore(), 0
        expected = _study(MemoryStore(), "asha", "tpe").run()
        while (study := _study(store, "asha", "tpe", f"driver-{attempt}")).coordinator.has_work() and attempt < 200:
            study.run(budget=source.randrange(1, 25))
            attempt += 1
        assert study.state.trials() == expected, f"seed {seed}"


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_driver_that_dies_at_any_operation_of_its_store_leaves_the_same_study(is_done: bool, is_all: bool) -> None:
    counting = MortalStore(MemoryStore())
    expected = _trials(counting, "driver-1")
    for dies_at in _moments(counting.num_operations, f"operations {is_done}", is_all=is_all):
        store = MemoryStore()
        with suppress(Killed):  # how results are grouped hangs on the speed of a thread, so the last operations may not come
            _trials(MortalStore(store, dies_at=dies_at, is_done=is_done), "driver-1")
        assert _trials(store, "driver-2") == expected, f"died at operation {dies_at}"


def _trials(store: object, driver: str) -> list[Trial]:
    """The runner keeps its checkpoints in the driver's store, so that these are struck too."""
    study = _study(store, "asha", "random", driver)
    study.runner.store = store  # type: ignore[assignment]
    return study.run()


@pytest.mark.parametrize("seed", range(5))
def test_of_two_drivers_at_once_one_is_fenced_and_the_study_is_whole(seed: int) -> None:
    """They take turns at random; the one that opened the study last goes on."""
    store, source = MemoryStore(), random.Random(seed)
    first = _study(store, "asha", "random")
    first.run(budget=source.randrange(1, 60))
    first = _study(store, "asha", "random", "driver-2")
    running = first.coordinator.next_job()
    second = _study(store, "asha", "random", "driver-3")
    expected = _study(MemoryStore(), "asha", "random").run()
    assert second.run() == expected
    with pytest.raises(Conflict, match="another process took over this study"):
        _go_on(first, running)
    assert _study(store, "asha", "random", "driver-4").state.trials() == second.state.trials()


def _go_on(study: SyntheticStudy, job: object) -> None:
    while job is not None:
        for event in study.runner(job):  # type: ignore[arg-type]
            if not study.coordinator.observe(event):
                break
        job = study.coordinator.next_job()
    study.coordinator.close()
