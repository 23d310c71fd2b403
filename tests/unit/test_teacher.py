"""Where the teacher is trained: in this process, or in one worker of another cluster; DeepSpeed's way is tests/integration/test_trainer.py's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from foundry_ray.artifacts import open_store
from foundry_ray.config import PipelineConfig, Settings
from foundry_ray.context import Context
from foundry_ray.errors import WorkerGroupFailed
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.teacher import train_teacher
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter

T = TypeVar("T")


class _OneWorker:
    """A session that carries a call to a worker as Ray does, by pickling it, and runs it there and then."""

    def __init__(self, num_gpus: float = 0.0) -> None:
        self.num_gpus = num_gpus
        self.reserved: list[tuple[float, float]] = []

    def resources(self) -> Mapping[str, float]:
        return {"CPU": 4.0, "GPU": self.num_gpus}

    def require(self, requested: Mapping[str, float], what: str) -> None:
        assert what == "teacher.cpus_per_worker"

    def call(self, fn: Callable[..., T], *, num_cpus: float, num_gpus: float, reporter: Reporter, **kwargs: object) -> T:
        from ray import cloudpickle

        self.reserved.append((num_cpus, num_gpus))
        carried: Callable[..., T] = cloudpickle.loads(cloudpickle.dumps(fn))
        return carried(reporter=reporter, **kwargs)

    def close(self) -> None:
        """Nothing is open."""


class _Surroundings(Context):
    """A context whose session is given; None where nobody may ask for one."""

    def __init__(self, store: ArtifactStore, settings: Settings, *, cluster: str = "local", session: _OneWorker | None = None) -> None:
        super().__init__(settings=settings, clock=FakeClock(), reporter=RecordingReporter(), cluster=cluster)
        self.__dict__["store"] = store
        if session is not None:
            self.__dict__["session"] = session

    @property
    def told(self) -> RecordingReporter:
        assert isinstance(self.reporter, RecordingReporter)
        return self.reporter


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for the second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder_store(tmp_path: Path, settings: Settings) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store", settings=settings)


def _config(**teacher: object) -> PipelineConfig:
    train = {"epochs": 1, "batch_size": 16, "precision": "fp32"}
    small = {"model": {"family": "cnn", "width": 4, "depth": 1}, "train": train, "workers": 1, "use_gpu": False, **teacher}
    return PipelineConfig.model_validate({"name": "p", "data": {"source": "none"}, "teacher": small})


def test_one_worker_trains_here_without_a_session(folder_store: ArtifactStore, settings: Settings) -> None:
    around = _Surroundings(folder_store, settings)
    model = train_teacher(_config(deepspeed={"zero_stage": 2}), publish_bands(folder_store), "k" * 64, context=around)
    assert "session" not in around.__dict__
    assert [step for step, _ in around.told.reports] == [1]
    assert around.told.warnings == ["teacher.deepspeed.zero_stage is ignored: one worker trains with torch; `teacher.engine: deepspeed` follows it."]
    assert list(settings.home.glob("tensorboard/kkkkkkkkkkkk-p/**/events.out.tfevents.*"))
    assert model.family == "cnn"


def test_one_worker_of_another_cluster_trains_there(folder_store: ArtifactStore, settings: Settings) -> None:
    session = _OneWorker()
    around = _Surroundings(folder_store, settings, cluster="10.0.0.5:6379", session=session)
    there = train_teacher(_config(cpus_per_worker=2), publish_bands(folder_store), "k" * 64, context=around)
    here = train_teacher(_config(), publish_bands(folder_store), "l" * 64, context=_Surroundings(folder_store, settings))
    assert session.reserved == [(2.0, 0.0)]
    assert [step for step, _ in around.told.reports] == [1]
    assert there.val_metrics["val_loss"] == here.val_metrics["val_loss"]


class _Dying(_OneWorker):
    """A session whose workers die after their first epoch, for these reasons one after another."""

    def __init__(self, *reasons: str) -> None:
        super().__init__()
        self._reasons = list(reasons)

    def call(self, fn: Callable[..., T], *, num_cpus: float, num_gpus: float, reporter: Reporter, **kwargs: object) -> T:
        result = super().call(fn, num_cpus=num_cpus, num_gpus=num_gpus, reporter=reporter, **kwargs)
        if self._reasons:
            reason = self._reasons.pop(0)
            raise WorkerGroupFailed(f"The worker of teacher died: {reason}", hint="again.", failures={0: reason}) from RuntimeError(reason)
        return result


_CRASH, _NODE = "WorkerCrashedError: it died unexpectedly.", "NodeDiedError: the node it was running on is dead."


def test_the_death_of_the_worker_or_of_its_node_is_followed_by_another(folder_store: ArtifactStore, settings: Settings) -> None:
    session = _Dying(_CRASH, _NODE)
    around = _Surroundings(folder_store, settings, cluster="10.0.0.5:6379", session=session)
    train_teacher(_config(max_failures=1, max_preemptions=1), publish_bands(folder_store), "k" * 64, context=around)
    assert len(session.reserved) == 3
    assert [step for step, _ in around.told.reports] == [1]
    assert ["restarting from the last checkpoint (1 of 1)" in message for message in around.told.warnings] == [True, True]


@pytest.mark.parametrize(
    ("reason", "message"), [(_CRASH, "all 0 restarts are used up"), ("OutOfMemoryError: the node was running low on memory", "low")]
)
def test_a_worker_that_would_only_die_again_is_the_end(folder_store: ArtifactStore, settings: Settings, reason: str, message: str) -> None:
    around = _Surroundings(folder_store, settings, cluster="10.0.0.5:6379", session=_Dying(reason))
    with pytest.raises(WorkerGroupFailed, match=message):
        train_teacher(_config(max_failures=0), publish_bands(folder_store), "k" * 64, context=around)


@pytest.mark.parametrize(("use_gpu", "num_gpus", "reserved"), [("auto", 1.0, 0.5), ("auto", 0.0, 0.0), (True, 1.0, 0.5), (False, 1.0, 0.0)])
def test_it_reserves_a_share_of_a_gpu_where_it_is_to_use_one(use_gpu: object, num_gpus: float, reserved: float) -> None:
    from foundry_ray.teacher import _num_gpus

    config = _config(use_gpu=use_gpu, gpus_per_worker=0.5).teacher
    assert _num_gpus(config, _OneWorker(num_gpus)) == reserved  # type: ignore[arg-type]
