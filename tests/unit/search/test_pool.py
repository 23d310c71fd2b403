"""How many trials run at once, and what one process of a study does with its jobs, without Ray."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from foundry_ray.config import TrialConfig
from foundry_ray.errors import ResourcesUnavailable, StoreUnavailable
from foundry_ray.protocols import Reporter
from foundry_ray.search.events import Event, Job
from foundry_ray.search.pool.slots import Slots, as_planned, plan_on_nodes, plan_slots
from foundry_ray.search.pool.worker import Worker, own_bytes

_MB = 1 << 20
JOB = Job(number=3, params={}, seed=0, rung=0, from_epoch=0, to_epoch=1)


@pytest.mark.parametrize(
    ("resources", "trial", "expected"),
    [
        ({"CPU": 2.0}, {}, Slots(count=2, cpus=1.0, gpus=0.0)),
        ({"CPU": 8.0}, {"cpus": 3}, Slots(count=2, cpus=3.0, gpus=0.0)),
        ({"CPU": 16.0, "GPU": 4.0}, {}, Slots(count=16, cpus=1.0, gpus=0.25)),
        ({"CPU": 64.0, "GPU": 1.0}, {}, Slots(count=8, cpus=1.0, gpus=0.125)),
        ({"CPU": 64.0, "GPU": 2.0}, {"gpus": 0.6}, Slots(count=2, cpus=1.0, gpus=0.6)),
        ({"CPU": 64.0, "GPU": 4.0}, {"gpus": 2}, Slots(count=2, cpus=1.0, gpus=2.0)),
    ],
)
def test_trials_fill_the_cluster(resources: dict[str, float], trial: dict[str, float], expected: Slots) -> None:
    assert plan_slots(resources, TrialConfig.model_validate(trial)) == expected


def test_trials_of_several_workers_reserve_for_the_workers_and_not_for_the_process_that_starts_them() -> None:
    trial = TrialConfig(workers=2, cpus=2)
    assert plan_slots({"CPU": 9.0}, trial) == Slots(count=2, cpus=0.0, gpus=0.0, num_workers=2, per_worker={"CPU": 2.0})
    assert plan_slots({"CPU": 16.0, "GPU": 3.0}, trial).per_worker == {"CPU": 2.0, "GPU": 1.0}
    assert plan_slots({"CPU": 16.0, "GPU": 3.0}, trial).count == 1
    assert plan_slots({"CPU": 16.0, "GPU": 1.0}, trial).per_worker == {"CPU": 2.0}, "one GPU for two workers: they train on CPUs"


def test_where_no_trial_fits_both_numbers_are_said() -> None:
    with pytest.raises(ResourcesUnavailable, match=r"one trial takes 4 CPU, but the cluster has 2 CPU and 0 GPU in all.*search\.trial\.workers"):
        plan_slots({"CPU": 2.0}, TrialConfig(workers=4))


SMALL = {"CPU": 3.0}
WITH_GPU = {"CPU": 4.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("nodes", "trial", "count"),
    [
        ([SMALL, SMALL], {"cpus": 2}, 2),
        ([SMALL, SMALL, SMALL], {"cpus": 2, "workers": 2}, 1),
        ([{"CPU": 0.0}, SMALL], {}, 3),
        ([WITH_GPU, {"CPU": 64.0}], {}, 4),
        ([WITH_GPU, {"CPU": 64.0}], {"gpus": 0}, 68),
    ],
)
def test_a_worker_is_on_one_node(nodes: list[dict[str, float]], trial: dict[str, float], count: int) -> None:
    assert plan_on_nodes(nodes, TrialConfig.model_validate(trial)).count == count


def test_a_trial_that_fits_all_nodes_together_and_none_of_them_is_refused() -> None:
    with pytest.raises(ResourcesUnavailable, match="one trial takes 4 CPU, but the cluster has 6 CPU and 0 GPU in all, at most 3 CPU and 0 GPU on a"):
        plan_on_nodes([SMALL, SMALL], TrialConfig(cpus=4))


@pytest.mark.parametrize(("at_first", "share"), [(WITH_GPU, 0.25), (SMALL, 0.0)])
def test_nodes_that_come_change_no_trials_share_of_a_gpu(at_first: dict[str, float], share: float) -> None:
    trial, later = TrialConfig(), [at_first, {"CPU": 64.0, "GPU": 1.0}]
    planned = as_planned(trial, plan_on_nodes([at_first], trial))
    assert plan_on_nodes(later, trial).gpus == 0.125, "the test must tempt it"
    assert plan_on_nodes(later, planned).gpus == share


def test_nodes_that_come_change_no_gangs_share_of_a_gpu() -> None:
    trial = TrialConfig(workers=2)
    planned = as_planned(trial, plan_on_nodes([WITH_GPU], trial))
    assert plan_on_nodes([WITH_GPU, WITH_GPU], planned).per_worker == {"CPU": 1.0}


class _Environment:
    """Runs jobs that end with an error."""

    fingerprint = "here"

    def __init__(self, error: Exception, last_words: str = "") -> None:
        self._error = error
        self._last_words = last_words

    def runner(self, reporter: Reporter) -> _Environment:
        self._reporter = reporter
        return self

    def __call__(self, job: Job) -> Iterator[Event]:
        self._reporter.warn("it is cold")
        yield Event(kind="epoch", number=job.number, epoch=1)
        self._reporter.warn(self._last_words)
        raise self._error


def test_a_worker_greets_with_its_device_and_passes_events_and_warnings_on() -> None:
    worker = Worker(_Environment(ValueError("no")))
    assert (worker.greet().event, worker.greet().fingerprint) == (None, "here")
    answer = worker.next(JOB)
    assert (answer.event, answer.warnings) == (Event(kind="epoch", number=3, epoch=1), ("it is cold",))
    assert answer.own_bytes > 1e6


def test_what_user_code_raises_and_would_raise_again_fails_the_trial() -> None:
    worker = Worker(_Environment(TypeError("optimizer() takes no keyword lr")))
    worker.next(JOB)
    assert worker.next(None).event == Event(kind="failed", number=3, error="TypeError: optimizer() takes no keyword lr")


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("the store is silent.", hint="wait."), OSError("disk full"), RuntimeError("CUDA error: device-side assert triggered")],
)
def test_what_another_process_may_survive_ends_this_one_and_its_warnings_are_told(error: Exception) -> None:
    worker = Worker(_Environment(error, last_words="it gets colder"))
    worker.next(JOB)
    answer = worker.next(None)
    assert answer.event is None
    assert answer.error.endswith(str(error))
    assert answer.warnings == ("it gets colder",)


@pytest.mark.parametrize(("flags", "counts"), [(mmap.MAP_SHARED, False), (mmap.MAP_PRIVATE, True)])
def test_memory_that_is_shared_is_no_growth_of_a_process(flags: int, counts: bool) -> None:
    before = own_bytes()
    with mmap.mmap(-1, 100 * _MB, flags=flags | mmap.MAP_ANONYMOUS) as memory:
        for _ in range(100):
            memory.write(b"x" * _MB)
        assert (own_bytes() - before > 50 * _MB) is counts
