"""Latency on other hardware than that which trains: one actor on a node with a named resource measures for all trials of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from foundry_ray.config import LatencyConfig
from foundry_ray.errors import BadRecord, ConfigError, ResourcesUnavailable, SearchError
from foundry_ray.evaluation.latency import RuntimeLatencyMeter
from foundry_ray.protocols import RuntimeChoice
from foundry_ray.types import LatencyResult

_SHARE = 0.001
_START_TIMEOUT_S = 120.0
_MEASURE_TIMEOUT_S = 300.0


class RemoteMeter:
    """A LatencyMeter that asks an actor. Can be pickled, so that all trials ask the same one, which measures one graph at a time."""

    def __init__(self, actor: Any, fingerprint: str, *, device: str) -> None:
        self._actor = actor
        self._fingerprint = fingerprint
        self._device = device

    def measure(self, onnx: bytes, *, batch_size: int, runtime: RuntimeChoice | None = None) -> LatencyResult:
        """See `LatencyMeter.measure`.

        Raises:
            BadRecord, ConfigError: The node cannot run the file, or the runtime.
            SearchError: It does not answer.
        """
        try:
            result: LatencyResult = ray.get(self._actor.measure.remote(onnx, batch_size=batch_size, runtime=runtime), timeout=_MEASURE_TIMEOUT_S)
        except (RayError, GetTimeoutError) as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, (BadRecord, ConfigError)):
                raise error.cause from None
            message = f"the node with {self._device!r} did not measure a graph within {_MEASURE_TIMEOUT_S:.0f} s: {error}"
            raise SearchError(message, hint="see that the node is there; the same command continues the study.") from error
        return result

    def device_fingerprint(self) -> str:
        """Of the node that measures."""
        return self._fingerprint


def open_remote_meter(meter: RuntimeLatencyMeter, config: LatencyConfig, resources: Mapping[str, float]) -> RemoteMeter:
    """Start the actor that measures with `meter` on a node that has `config.device`.

    Raises:
        ResourcesUnavailable: No node has it, or none has the CPUs free within two minutes.
    """
    available = resources.get(config.device, 0.0)
    if available <= 0:
        message = f"search.latency.device is {config.device!r}, but no node of the cluster has such a resource."
        hint = f"start the node with `ray start --resources '{{\"{config.device}\": 1}}'`, or leave the key out."
        raise ResourcesUnavailable(message, hint=hint, requested={config.device: _SHARE}, available={config.device: available})
    options = {"num_cpus": config.threads, "resources": {config.device: _SHARE}, "max_restarts": -1, "max_task_retries": 2}
    actor = ray.remote(_Gauge).options(**options).remote(meter)
    try:
        fingerprint: str = ray.get(actor.fingerprint.remote(), timeout=_START_TIMEOUT_S)
    except (RayError, GetTimeoutError) as error:
        message = f"no process for measuring started on a node with {config.device!r} within {_START_TIMEOUT_S:.0f} s."
        requested = {config.device: _SHARE, "CPU": float(config.threads)}
        raise ResourcesUnavailable(message, hint="free a CPU there.", requested=requested, available=dict(ray.available_resources())) from error
    return RemoteMeter(actor, fingerprint, device=config.device)


class _Gauge:
    """The actor."""

    def __init__(self, meter: RuntimeLatencyMeter) -> None:
        self._meter = meter

    def measure(self, onnx: bytes, *, batch_size: int, runtime: RuntimeChoice | None) -> LatencyResult:
        return self._meter.measure(onnx, batch_size=batch_size, runtime=runtime)

    def fingerprint(self) -> str:
        return self._meter.device_fingerprint()
