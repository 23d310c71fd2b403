"""Groups that are started, watched and started again, on a cluster that is made of numbers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pytest

from foundry_ray.config import ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.errors import Preempted, ResourcesUnavailable, WorkerGroupFailed
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training.attempts import max_zero_stage
from foundry_ray.training.checkpoint import progress_key
from foundry_ray.training.elastic import GROW_AFTER_S, MemoryLimit
from foundry_ray.training.failures import FailureKind, RankFailure
from foundry_ray.training.on_ray import OnRay, wants_gpu
from foundry_ray.training.preemption import Ask, ask_key, asked
from foundry_ray.training.progress import Listener, StoreReporter
from foundry_ray.training.rank import Attempt, RankJob
from foundry_ray.training.scratch import Scratch

CONFIG = TeacherConfig(
    model=ModelConfig(family="cnn", width=4, depth=1), train=TrainConfig(batch_size=32), workers=2, min_workers=1, start_timeout_s=100.0
)
FULL = RankFailure(rank=0, kind=FailureKind.CRASHED, text="torch.OutOfMemoryError: CUDA out of memory.")
DIED = RankFailure(rank=0, kind=FailureKind.DIED, text="ActorDiedError: killed")
LOST_PEER = RankFailure(rank=0, kind=FailureKind.CRASHED, text="RuntimeError: Connection closed by peer")
NOT_PLACED = RankFailure(rank=-1, kind=FailureKind.NOT_STARTED, text="WorkerGroupStartupTimeoutError")


class Cluster:
    """Nodes by name with what they offer, of which others leave some free: CPUs where only a number is given."""

    def __init__(self, **nodes: float | Mapping[str, float]) -> None:
        self.offered = {name: offer if isinstance(offer, Mapping) else {"CPU": offer} for name, offer in nodes.items()}
        self.unused: dict[str, Mapping[str, float]] = dict(self.offered)
        self.leaving: set[str] = set()

    def resources(self) -> Mapping[str, float]:
        total: Counter[str] = Counter()
        for node in self.offered.values():
            total.update(node)
        return total

    def require(self, requested: Mapping[str, float], what: str) -> None:
        if requested["CPU"] > 64:
            raise ResourcesUnavailable(f"{what} needs {requested['CPU']:g} CPU.", requested=dict(requested))

    def is_here(self) -> bool:
        return True

    def nodes(self) -> Mapping[str, Mapping[str, float]]:
        return {name: offer for name, offer in self.offered.items() if name not in self.leaving}

    def free(self) -> Mapping[str, Mapping[str, float]]:
        return {name: offer for name, offer in self.unused.items() if name not in self.leaving}

    def draining(self) -> frozenset[str]:
        return frozenset(self.leaving)


Group = Callable[[Attempt], tuple[RankFailure, ...]]


class Stage:
    """A training whose groups do what they are told to, one after another."""

    def __init__(self, store: MemoryStore, settings: Settings, cluster: Cluster, config: TeacherConfig = CONFIG) -> None:
        self.store, self.settings, self.cluster = store, settings, cluster
        self.clock, self.reporter = FakeClock(), RecordingReporter()
        self.job = RankJob(config=config, task="image_classification", dataset=publish_bands(store), augment=(), seed=0, stage_key="k", store=store)
        self.attempts: list[Attempt] = []

    def play(self, *groups: Group) -> list[str]:
        """Run the groups; returns the shapes that they had."""
        left = iter(groups)

        def run_group(job: RankJob, attempt: Attempt, scratch: Scratch) -> tuple[RankFailure, ...]:
            self.attempts.append(attempt)
            return next(left)(attempt)

        listener = Listener(self.store, progress_key("k"), self.reporter, num_known=0)
        known = {"settings": self.settings, "reporter": self.reporter, "clock": self.clock, "limit": MemoryLimit()}
        OnRay(self.job, self.cluster, listener, run_group=run_group, **known).train(called_s=self.clock.monotonic_s())
        return [str(attempt.shape) for attempt in self.attempts]

    def until_asked(self, attempt: Attempt, *, nodes: tuple[str, ...]) -> Ask:
        """A group that trains on these nodes until it is asked to stop. Its driver looks once a second, at most ten times."""
        worker = StoreReporter(self.store, progress_key("k"), attempt=attempt.name)
        worker.placed(nodes)
        worker.started(0, {"group": 1.0})
        worker.tick()
        for what in self._looks(ask_key(progress_key("k"), attempt.name)):
            if what is not Ask.NOTHING:
                return what
        raise AssertionError("nobody asked")

    def _looks(self, key: str) -> Iterator[Ask]:
        for _ in range(100):
            threading.Event().wait(0.1)
            self.clock.advance(1.0)
            yield asked(self.store, key)


@pytest.fixture
def stage(memory_store: MemoryStore, settings: Settings) -> Callable[..., Stage]:
    return lambda cluster, config=CONFIG: Stage(memory_store, settings, cluster, config)


def done(attempt: Attempt) -> tuple[RankFailure, ...]:
    return ()


def ends(*failures: RankFailure) -> Group:
    return lambda attempt: failures


def test_a_group_is_as_large_as_fits_its_nodes(stage: Callable[..., Stage]) -> None:
    assert stage(Cluster(a=1.5, b=1.5)).play(done) == ["2 workers x 16 samples x 1 passes, ZeRO 1"]
    assert stage(Cluster(a=1.5, b=0.5)).play(done) == ["1 workers x 16 samples x 2 passes, ZeRO 1"]


def test_what_was_learnt_about_memory_holds_for_the_next_groups(stage: Callable[..., Stage]) -> None:
    training = stage(Cluster(a=2.0))
    assert training.play(ends(FULL), ends(DIED), done)[1:] == ["2 workers x 8 samples x 2 passes, ZeRO 1"] * 2
    assert [attempt.limit.micro_batch_size for attempt in training.attempts] == [None, 8, 8]
    assert len({attempt.name for attempt in training.attempts}) == 3
    assert "(1 of 8)" in training.reporter.warnings[0]
    assert "(1 of 3)" in training.reporter.warnings[1]


def test_a_node_that_is_announced_to_go_stops_its_group_and_only_that(stage: Callable[..., Stage]) -> None:
    training = stage(Cluster(a=1.0, b=1.0, c=1.0))

    def drained(attempt: Attempt) -> tuple[RankFailure, ...]:
        training.cluster.leaving = {"c", "b"}
        assert training.until_asked(attempt, nodes=("a", "b")) is Ask.PREEMPTED
        return (RankFailure(rank=0, kind=FailureKind.RAISED, text="", error=Preempted("as asked.")),)

    assert training.play(drained, done)[1] == "1 workers x 16 samples x 2 passes, ZeRO 1"
    assert training.reporter.warnings == ["a node of the group is to be taken away; restarting from the last checkpoint (1 of 100)."]
    assert not [key for key in training.store.objects if "stop-" in key], "the question stays behind"


def test_a_group_grows_once_there_is_room(stage: Callable[..., Stage]) -> None:
    training = stage(Cluster(a=1.0))

    def small(attempt: Attempt) -> tuple[RankFailure, ...]:
        training.cluster.offered["b"] = {"CPU": 1.0}
        training.cluster.unused = {"b": {"CPU": 1.0}}
        began_s = training.clock.monotonic_s()
        assert training.until_asked(attempt, nodes=("a",)) is Ask.RESIZE
        assert training.clock.monotonic_s() - began_s >= GROW_AFTER_S
        return (RankFailure(rank=0, kind=FailureKind.RAISED, text="", error=Preempted("as asked.")),)

    assert training.play(small, done)[1].startswith("2 workers")
    assert training.reporter.warnings == ["more workers fit now; restarting from the last checkpoint."]


def test_where_only_a_lost_peer_is_known_a_node_may_be_the_cause(stage: Callable[..., Stage]) -> None:
    training = stage(Cluster(a=1.0, b=1.0), CONFIG.model_copy(update={"max_failures": 0}))

    def torn(attempt: Attempt) -> tuple[RankFailure, ...]:
        worker = StoreReporter(training.store, progress_key("k"), attempt=attempt.name)
        worker.placed(("a", "b"))
        worker.tick()
        del training.cluster.offered["b"]
        return (LOST_PEER,)

    assert training.play(torn, done)[1].startswith("1 workers")
    assert training.reporter.warnings == ["a node is lost: b answers no more; restarting from the last checkpoint (1 of 100)."]


def test_a_lost_peer_on_one_node_is_a_failure(stage: Callable[..., Stage]) -> None:
    training = stage(Cluster(a=2.0), CONFIG.model_copy(update={"max_failures": 0}))
    with pytest.raises(WorkerGroupFailed, match="all 0 restarts are used up: RuntimeError: Connection closed by peer"):
        training.play(ends(LOST_PEER))


def test_workers_that_others_leave_no_room_for_are_fewer_the_next_time(stage: Callable[..., Stage]) -> None:
    training = stage(Cluster(a=2.0))
    training.cluster.unused = {"a": {"CPU": 1.0}}
    assert training.play(ends(NOT_PLACED), done)[1].startswith("1 workers")
    assert "2 workers could not be placed: what is free on the cluster holds 1. Training waits for 100 s" in training.reporter.warnings[0]


def test_waiting_for_workers_ends_and_says_what_was_missing(stage: Callable[..., Stage]) -> None:
    training = stage(Cluster(a=2.0))
    training.cluster.unused = {}

    def waits(attempt: Attempt) -> tuple[RankFailure, ...]:
        training.clock.advance(60.0)
        return (NOT_PLACED,)

    with pytest.raises(ResourcesUnavailable, match="needs 1 workers with 1 CPU each, and for 120 s no more than 0 fit"):
        training.play(waits, waits)


def test_workers_that_can_never_be_are_refused_before_any_group(stage: Callable[..., Stage]) -> None:
    with pytest.raises(ResourcesUnavailable, match=r"teacher\.min_workers needs 128 CPU"):
        stage(Cluster(a=2.0), CONFIG.model_copy(update={"cpus_per_worker": 128.0})).play()


def test_what_is_free_on_two_nodes_makes_no_worker(stage: Callable[..., Stage]) -> None:
    """A GPU without a CPU and CPUs without a GPU: a group that waited for them would wait for ever."""
    node = {"CPU": 8.0, "GPU": 1.0}
    training = stage(Cluster(a=node, b=node), CONFIG.model_copy(update={"use_gpu": True}))
    training.cluster.unused = {"a": node, "b": {"GPU": 1.0}}
    assert [shape[:9] for shape in training.play(ends(NOT_PLACED), done)] == ["2 workers", "1 workers"]
    assert all(attempt.use_gpu for attempt in training.attempts)


@pytest.mark.parametrize(
    ("least", "num_gpus", "share", "is_wanted"),
    [(None, 4.0, 1.0, True), (None, 2.0, 1.0, False), (2, 2.0, 1.0, True), (2, 1.0, 1.0, False), (2, 1.0, 0.5, True), (1, 0.0, 1.0, False)],
)
def test_gpus_are_used_where_there_are_enough_for_the_least_workers(
    reporter: RecordingReporter, least: int | None, num_gpus: float, share: float, is_wanted: bool
) -> None:
    config = CONFIG.model_copy(update={"workers": 4, "min_workers": least, "gpus_per_worker": share})
    assert wants_gpu(config, Cluster(a={"CPU": 8.0, "GPU": num_gpus}), reporter) is is_wanted
    assert len(reporter.warnings) == (num_gpus > 0 and not is_wanted)


def test_memory_asks_for_no_stage_that_the_optimizer_cannot_use() -> None:
    assert max_zero_stage(CONFIG, 1) == 3
    adafactor = CONFIG.model_copy(update={"train": TrainConfig(optimizer="adafactor")})
    assert max_zero_stage(adafactor, 0) == 0
    assert max_zero_stage(CONFIG.model_copy(update={"workers": 1}), 1) == 1
