"""When the driver starts an actor, gives one up, and what it says of it: with actors that are played in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError

from foundry_ray.config import TrialConfig
from foundry_ray.errors import ClusterUnreachable, SearchError, StoreUnavailable
from foundry_ray.protocols import Reporter
from foundry_ray.search.events import Event, Job
from foundry_ray.search.pool import executor
from foundry_ray.search.pool.executor import PoolExecutor
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import SyntheticRunner, SyntheticStudy
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import TrialState

_SILENT = object()


class _Hangs(BaseException):
    """What a call does that gives no answer; no worker catches it."""


class _Ended(BaseException):
    """What a call does whose process Ray ends."""

    def __init__(self, why: str, *, is_memory: bool = True) -> None:
        self.error = OutOfMemoryError(why) if is_memory else RayError(why)


@dataclass
class PlayedRay:
    """The part of Ray that the executor uses: an actor answers when somebody waits for it, after `event_s`."""

    clock: FakeClock
    event_s: float = 0.01
    has_room: bool = True
    free: float = 2.0
    is_gone: bool = False
    killed: int = 0

    def put(self, value: object) -> object:
        return value

    def remote(self, worker: type) -> _Options:
        return _Options(self, worker)

    def wait(self, refs: list[_Answer], *, num_returns: int, timeout: float) -> tuple[list[_Answer], list[_Answer]]:
        if self.is_gone:
            raise RayError("the cluster is gone")
        ready = next((ref for ref in refs if ref.is_ready()), None)
        self.clock.advance(timeout if ready is None else self.event_s)
        return ([ready] if ready else []), []

    def get(self, ref: _Answer, *, timeout: float) -> object:
        if ref.value is _SILENT:
            raise GetTimeoutError
        if isinstance(ref.value, RayError):
            raise ref.value
        if isinstance(ref.value, Exception):
            raise RayError(str(ref.value))
        return ref.value

    def kill(self, handle: object) -> None:
        if self.is_gone:
            raise RayError("the cluster is gone")
        self.killed += 1

    def available_resources(self) -> dict[str, float]:
        return {"CPU": self.free}


@dataclass
class _Options:
    ray: PlayedRay
    worker: type

    def options(self, **options: object) -> _Options:
        return self

    def remote(self, environment: object) -> _Handle:
        return _Handle(self.ray, self.worker, environment)


@dataclass
class _Answer:
    call: Callable[[], object]
    value: object = _SILENT

    def is_ready(self) -> bool:
        try:
            self.value = self.call()
        except _Hangs:
            self.call = lambda: _SILENT
        except _Ended as ended:
            self.value = ended.error
        except Exception as error:
            self.value = error
        return self.value is not _SILENT

    __hash__ = object.__hash__


class _Handle:
    """An actor is made when it is first asked, if there is room."""

    def __init__(self, ray: PlayedRay, worker: type, environment: object) -> None:
        self._make: Callable[[], Any] = lambda: worker(environment)
        self._ray = ray
        self._actor: Any = None

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)

    def call(self, name: str, *arguments: object) -> object:
        if not self._ray.has_room:
            return _SILENT
        self._actor = self._actor or self._make()
        return getattr(self._actor, name)(*arguments)


@dataclass
class _Method:
    handle: _Handle
    name: str

    def remote(self, *arguments: object) -> _Answer:
        return _Answer(lambda: self.handle.call(self.name, *arguments))


@dataclass
class _Environment:
    """Synthetic trials. `breaks` says what a trial's second event is instead; `starts` whether the next process comes up."""

    breaks: dict[int, BaseException] = field(default_factory=dict)
    starts: Callable[[int], bool] = lambda number: True
    num_starts: int = 0

    def runner(self, reporter: Reporter) -> _Runner:
        self.num_starts += 1
        if not self.starts(self.num_starts):
            raise ValueError("no such library")
        return _Runner(self, reporter)


@dataclass
class _Runner:
    environment: _Environment
    reporter: Reporter
    fingerprint: str = "here"

    def __call__(self, job: Job) -> Iterator[Event]:
        events = SyntheticRunner(device="here")(job)
        yield next(events)
        broken = self.environment.breaks.pop(job.number, None)
        if isinstance(broken, BaseException):
            self.reporter.warn("it gets cold")
            raise broken
        yield from events


@pytest.fixture
def ray(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> PlayedRay:
    played = PlayedRay(clock)
    monkeypatch.setattr(executor, "ray", played)
    return played


def _execute(
    ray: PlayedRay,
    environment: _Environment,
    reporter: RecordingReporter,
    *,
    nodes: Callable[[], Mapping[str, Mapping[str, float]]] = lambda: {"here": {"CPU": 2.0}},
    num_trials: int = 6,
    **trial: float,
) -> SyntheticStudy:
    study = SyntheticStudy(MemoryStore(), num_trials=num_trials, kind="none", sampler="random")
    PoolExecutor(environment, TrialConfig.model_validate(trial), nodes=nodes, clock=ray.clock, reporter=reporter).run(study.coordinator)
    return study


def test_all_trials_are_run_and_all_actors_ended(ray: PlayedRay, reporter: RecordingReporter) -> None:
    environment = _Environment()
    study = _execute(ray, environment, reporter)
    assert study.state.counts[TrialState.COMPLETE] == 6
    assert (environment.num_starts, ray.killed) == (2, 2)
    assert not reporter.warnings


def test_the_warnings_of_a_process_that_ends_are_told_before_its_end(ray: PlayedRay, reporter: RecordingReporter) -> None:
    study = _execute(ray, _Environment({2: StoreUnavailable("the store is silent.", hint="wait.")}), reporter)
    assert study.state.trials()[2].num_failures == 1
    assert study.state.counts[TrialState.COMPLETE] == 6
    first, second = reporter.warnings
    assert first == "it gets cold"
    assert second.startswith("trial 2 lost its process: ")
    assert second.endswith("StoreUnavailable: the store is silent. Hint: wait.")


def test_a_process_that_ray_ends_for_want_of_memory_costs_its_trial_the_size_of_its_passes(ray: PlayedRay, reporter: RecordingReporter) -> None:
    study = _execute(ray, _Environment({1: _Ended("the node was running low on memory"), 2: _Ended("the actor died", is_memory=False)}), reporter)
    assert [study.state.records[number].num_memory_deaths for number in range(6)] == [0, 1, 0, 0, 0, 0]
    assert study.state.counts[TrialState.COMPLETE] == 6


def test_a_process_that_says_nothing_is_given_up_and_its_trial_is_not(ray: PlayedRay, reporter: RecordingReporter) -> None:
    study = _execute(ray, _Environment({1: _Hangs()}), reporter, silence_s=100)
    assert [trial.num_failures for trial in study.state.trials()] == [0, 1, 0, 0, 0, 0]
    assert study.state.counts[TrialState.COMPLETE] == 6
    assert reporter.warnings[-1].startswith("trial 1 lost its process: it said nothing for 100 s")


def test_a_trial_that_loses_more_processes_than_it_may_has_failed_and_the_others_go_on(ray: PlayedRay, reporter: RecordingReporter) -> None:
    class DiesAlways(dict[int, BaseException]):
        def pop(self, key: int, default: object = None) -> BaseException | None:  # type: ignore[override]
            return OSError("disk full") if key == 2 else None

    study = _execute(ray, _Environment(DiesAlways()), reporter)
    failed = study.state.trials()[2]
    assert (failed.state, failed.num_failures) == (TrialState.FAILED, 2)
    assert "OSError: disk full" in failed.error
    assert study.state.counts[TrialState.COMPLETE] == 5


def test_a_process_is_replaced_after_so_many_trials(ray: PlayedRay, reporter: RecordingReporter) -> None:
    environment = _Environment()
    _execute(ray, environment, reporter, nodes=lambda: {"here": {"CPU": 1.0}}, recycle_after=2)
    assert environment.num_starts == 3


def test_a_broken_node_beside_one_that_works_is_rested_and_ends_no_study(ray: PlayedRay, reporter: RecordingReporter) -> None:
    environment = _Environment(starts=lambda number: number == 1)
    study = _execute(ray, environment, reporter, num_trials=20)
    assert study.state.counts[TrialState.COMPLETE] == 20
    assert environment.num_starts == 1 + 3
    assert ["could not start" in warning for warning in reporter.warnings] == [True] * 3
    assert "The study goes on with the 1 it has, and tries again in 60 s." in reporter.warnings[-1]


def test_where_no_process_works_three_starts_end_the_study(ray: PlayedRay, reporter: RecordingReporter) -> None:
    with pytest.raises(SearchError, match=r"3 worker processes in a row could not start, the last with: .*no such library"):
        _execute(ray, _Environment(starts=lambda number: False), reporter)


def test_after_its_rest_a_broken_node_is_tried_again(ray: PlayedRay, reporter: RecordingReporter) -> None:
    ray.event_s = 1.0
    environment = _Environment(starts=lambda number: number not in (2, 3, 4))
    study = _execute(ray, environment, reporter, num_trials=20)
    assert study.state.counts[TrialState.COMPLETE] == 20
    assert environment.num_starts == 5
    assert len(reporter.warnings) == 3


def test_that_no_trial_fits_any_more_is_said_once(ray: PlayedRay, reporter: RecordingReporter) -> None:
    ray.event_s, looks = 1.0, []

    def offered() -> dict[str, dict[str, float]]:
        looks.append(None)
        return {} if 2 < len(looks) < 9 else {"here": {"CPU": 2.0}}

    study = _execute(ray, _Environment(), reporter, nodes=offered, num_trials=20)
    assert study.state.counts[TrialState.COMPLETE] == 20
    assert len(looks) > 10
    [said] = reporter.warnings
    assert "no trial fits the cluster any more: one trial takes 1 CPU" in said


@pytest.mark.parametrize(("is_short", "warnings"), [(True, 0), (False, 2)])
def test_a_worker_waits_for_room_as_long_as_it_must_and_starts_in_ten_minutes(
    ray: PlayedRay, reporter: RecordingReporter, is_short: bool, warnings: int
) -> None:
    study, reasons, began_s = SyntheticStudy(MemoryStore(), num_trials=3, kind="none"), [], ray.clock.monotonic_s()

    def offered() -> dict[str, dict[str, float]]:
        ray.has_room = ray.clock.monotonic_s() > began_s + 1000
        ray.free = 0.5 if is_short and not ray.has_room else 2.0
        reasons.append(study.coordinator.waiting_because())
        return {"here": {"CPU": 2.0}}

    PoolExecutor(_Environment(), TrialConfig(silence_s=30), nodes=offered, clock=ray.clock, reporter=reporter).run(study.coordinator)
    assert study.state.counts[TrialState.COMPLETE] == 3
    assert ("a worker waits for 1 CPU (0.5 free)" if is_short else "a worker starts") in reasons
    assert ["it said nothing for 6" in warning for warning in reporter.warnings] == [True] * warnings


def test_a_cluster_that_is_gone_is_named_and_not_the_actors_that_cannot_be_ended(ray: PlayedRay, reporter: RecordingReporter) -> None:
    ray.event_s, looks = 1.0, []

    def offered() -> dict[str, dict[str, float]]:
        looks.append(None)
        ray.is_gone = len(looks) > 2
        return {"here": {"CPU": 2.0}}

    with pytest.raises(ClusterUnreachable, match=r"the cluster does not answer any more: the cluster is gone.*`foundry resume`"):
        _execute(ray, _Environment(), reporter, nodes=offered)
