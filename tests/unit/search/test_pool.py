"""How many trials run at once, and what one process of a study does with its jobs, without Ray."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from foundry_ray.config import TrialConfig
from foundry_ray.errors import ResourcesUnavailable, StoreUnavailable
from foundry_ray.protocols import Reporter
from foundry_ray.search.events import Event, Job
from foundry_ray.search.pool.slots import Slots, plan_slots
from foundry_ray.search.pool.worker import Worker

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


class _Environment:
    """Runs jobs that end with an error."""

    fingerprint = "here"

    def __init__(self, error: Exception) -> None:
        self._error = error

    def runner(self, reporter: Reporter) -> _Environment:
        self._reporter = reporter
        return self

    def __call__(self, job: Job) -> Iterator[Event]:
        self._reporter.warn("it is cold")
        yield Event(kind="epoch", number=job.number, epoch=1)
        raise self._error


def test_a_worker_greets_with_its_device_and_passes_events_and_warnings_on() -> None:
    worker = Worker(_Environment(ValueError("no")))
    assert (worker.greet().event, worker.greet().fingerprint) == (None, "here")
    answer = worker.next(JOB)
    assert (answer.event, answer.warnings) == (Event(kind="epoch", number=3, epoch=1), ("it is cold",))
    assert answer.rss_bytes > 1e6


def test_what_user_code_raises_and_would_raise_again_fails_the_trial() -> None:
    worker = Worker(_Environment(TypeError("optimizer() takes no keyword lr")))
    worker.next(JOB)
    assert worker.next(None).event == Event(kind="failed", number=3, error="TypeError: optimizer() takes no keyword lr")


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("the store is silent.", hint="wait."), OSError("disk full"), RuntimeError("CUDA error: device-side assert triggered")],
)
def test_what_another_process_may_survive_ends_this_one(error: Exception) -> None:
    worker = Worker(_Environment(error))
    worker.next(JOB)
    with pytest.raises(type(error)):
        worker.next(None)
