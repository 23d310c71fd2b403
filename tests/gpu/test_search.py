"""Trials on GPUs, one by one and several on one device. Each test says what it lacks where there is none; see `test_training` for the command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from foundry_ray.clock import SystemClock
from foundry_ray.config import TrialConfig
from foundry_ray.protocols import Reporter
from foundry_ray.search.events import Event, Job
from foundry_ray.search.pool.executor import PoolExecutor
from foundry_ray.search.pool.worker import Runner
from foundry_ray.search.trial import TrialContext
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.search import SyntheticStudy
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.testing.trials import PARAMS, tiny_context, tiny_runner
from foundry_ray.types import TrialState

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray warns about its own defaults
]
_FP32 = {**PARAMS, "weight_bits": 32}
# TF32 is on in convolutions, so a loss agrees to two digits after a few steps.
_TOLERANCE = 0.05


@pytest.fixture(scope="module")
def context() -> TrialContext:
    return tiny_context()


def _job(number: int = 0, params: object = _FP32, **changes: object) -> Job:
    return replace(Job(number=number, params=params, seed=1, rung=0, from_epoch=0, to_epoch=1, later=(3,)), **changes)  # type: ignore[arg-type]


def _events(context: TrialContext, device: str, job: Job, store: MemoryStore | None = None) -> list[Event]:
    return list(tiny_runner(context, store or MemoryStore(), device=device)(job))


def test_a_trial_on_the_gpu_tells_what_one_on_the_cpu_tells(context: TrialContext) -> None:
    gpu, cpu = (_events(context, device, _job()) for device in ("cuda:0", "cpu"))
    assert [(event.kind, event.rung, event.epoch) for event in gpu] == [(event.kind, event.rung, event.epoch) for event in cpu]
    assert gpu[-1].values["val_loss"] == pytest.approx(cpu[-1].values["val_loss"], rel=_TOLERANCE)


def test_int8_is_imitated_on_the_gpu_as_the_file_answers(context: TrialContext) -> None:
    gpu, cpu = (_events(context, device, _job(params=PARAMS)) for device in ("cuda:0", "cpu"))
    assert gpu[-1].values["val_loss"] == pytest.approx(cpu[-1].values["val_loss"], rel=2 * _TOLERANCE)


def test_a_state_of_the_gpu_goes_on_where_there_is_none(context: TrialContext) -> None:
    store = MemoryStore()
    first = _events(context, "cuda:0", _job(later=()), store)
    going_on = _job(from_epoch=1, to_epoch=3, later=(), checkpoint=first[-1].checkpoint, known=first[0].values)
    last = _events(context, "cpu", going_on, store)[-1]
    assert (last.kind, last.epoch) == ("rung", 3)


def test_a_trial_gives_its_memory_back(context: TrialContext) -> None:
    runner = tiny_runner(context, MemoryStore(), device="cuda:0")
    held = []
    for number in range(4):
        list(runner(_job(number)))
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
    assert max(held[1:]) <= held[0]


def test_trial_after_trial_on_one_gpu_is_as_in_a_fresh_runner(context: TrialContext) -> None:
    runner = tiny_runner(context, MemoryStore(), device="cuda:0")
    list(runner(_job(0, PARAMS)))
    again = list(runner(_job(1)))[-1].values
    assert again["val_loss"] == _events(context, "cuda:0", _job(1))[-1].values["val_loss"]


class _OnGpu:
    """Says where its process would train."""

    def runner(self, reporter: Reporter) -> Runner:
        return _Asks()  # type: ignore[return-value]


class _Asks:
    fingerprint = "none"

    def __call__(self, job: Job) -> Iterator[Event]:
        """The device and the share of it, as values."""
        import ray

        values = {"accuracy": 0.5, "latency_p50_ms": 1.0, "size_bytes": 1000.0, "num_params": 10.0}
        yield Event(kind="prepared", number=job.number, values=values, effective=str(job.number), graph=str(job.number), device="none")
        shown = {**values, "devices": float(torch.cuda.device_count()), "share": float(ray.get_runtime_context().get_assigned_resources()["GPU"])}
        for rung, epoch in enumerate((job.to_epoch, *job.later), job.rung):
            curve = ({"epoch": float(epoch), **shown},)
            yield Event(kind="rung", number=job.number, rung=rung, epoch=epoch, values=shown, curve=curve, checkpoint="none")


def test_several_trials_share_a_gpu_and_each_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        study = SyntheticStudy(MemoryStore(), num_trials=8)
        nodes = {"only": {"CPU": 4.0, "GPU": 1.0}}
        executor = PoolExecutor(_OnGpu(), TrialConfig(), nodes=lambda: nodes, clock=SystemClock(), reporter=RecordingReporter())
        assert executor.slots.count == 4
        executor.run(study.coordinator)
    finally:
        ray.shutdown()
    trials = study.state.trials()
    assert {trial.state for trial in trials} <= {TrialState.WAITING, TrialState.COMPLETE}
    assert [(trial.values["devices"], trial.values["share"]) for trial in trials] == [(1.0, 0.25)] * 8
