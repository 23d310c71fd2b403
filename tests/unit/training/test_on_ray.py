"""How large a group is that a cluster has room for, without a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from foundry_ray.config import Settings, TeacherConfig, TrainConfig
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.training.elastic import MemoryLimit
from foundry_ray.training.on_ray import OnRay, wants_gpu
from foundry_ray.training.progress import Listener
from foundry_ray.training.rank import RankJob

Nodes = Mapping[str, Mapping[str, float]]


@dataclass(kw_only=True)
class Cluster:
    """Nodes, and what others leave free on them."""

    offered: Nodes
    unused: Nodes = field(default_factory=dict)

    def resources(self) -> Mapping[str, float]:
        total: Counter[str] = Counter()
        for node in self.offered.values():
            total.update(node)
        return total

    def require(self, requested: Mapping[str, float], what: str) -> None:
        """It can be placed."""

    def is_here(self) -> bool:
        return True

    def nodes(self) -> Nodes:
        return self.offered

    def free(self) -> Nodes:
        return self.unused

    def draining(self) -> frozenset[str]:
        return frozenset()


def config(**fields: object) -> TeacherConfig:
    return TeacherConfig.model_validate({"workers": 4, "min_workers": 1, "train": TrainConfig(batch_size=64), **fields})


def test_what_is_free_on_two_nodes_makes_no_worker(memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    """A GPU without a CPU and CPUs without a GPU: a group that waited for them would wait for ever."""
    node = {"CPU": 8.0, "GPU": 2.0}
    cluster = Cluster(offered={"a": node, "b": node}, unused={"a": {"CPU": 8.0, "GPU": 1.0}, "b": {"GPU": 1.0}})
    dataset = publish_bands(memory_store)
    job = RankJob(config=config(use_gpu=True), task="image_classification", dataset=dataset, augment=(), seed=0, stage_key="k", store=memory_store)
    listener = Listener(memory_store, "progress", reporter, num_known=0)
    groups = OnRay(job, cluster, listener, settings=settings, reporter=reporter, clock=FakeClock(), limit=MemoryLimit())
    assert groups._num_workers(is_crowded=False) == 4
    assert groups._num_workers(is_crowded=True) == 1


@pytest.mark.parametrize(
    ("least", "num_gpus", "is_wanted"), [(None, 4.0, True), (None, 2.0, False), (2, 2.0, True), (2, 1.0, False), (1, 0.0, False)]
)
def test_gpus_are_used_where_there_are_enough_for_the_least_workers(
    reporter: RecordingReporter, least: int | None, num_gpus: float, is_wanted: bool
) -> None:
    cluster = Cluster(offered={"a": {"CPU": 8.0, "GPU": num_gpus}})
    assert wants_gpu(config(min_workers=least), cluster, reporter) is is_wanted
    assert len(reporter.warnings) == (num_gpus > 0 and not is_wanted)
