"""Latency of a deployed graph, measured through `inference` in quiet, once per graph and device.

Decides: what is measured, when a result counts as noisy, where it is cached. Leaves to others: the statistics (timing), the quiet (quiet).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_ray.documents import envelope
from foundry_ray.evaluation.quiet import QuietGate
from foundry_ray.evaluation.timing import Timing, sample, summarize
from foundry_ray.inference import cpu_name, graph_sha256, open_runtime, runtime_version
from foundry_ray.inference.runtimes import Device
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.types import FORMAT_VERSION, Json, LatencyResult, canonical_sha256, from_json, to_json

if TYPE_CHECKING:
    from foundry_ray.inference import Runtime

_RETRIES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conditions:
    """Under which a measurement is taken."""

    threads: int
    budget_s: float
    clock: Clock
    gate: QuietGate | None
    runtime: str = "onnxruntime"
    device: Device = "cpu"


@dataclass(kw_only=True)
class RuntimeLatencyMeter:
    """A LatencyMeter whose results are kept in the store under `latency/<device fingerprint>/<graph>-b<batch>.json`.

    Attributes:
        threads: Threads of the runtime.
        budget_s: Time of one measurement, without waiting and loading.
        gate: The node's quiet; None measures at once.
        waited_s: Seconds spent waiting for quiet so far, which are no part of the measurement.
        num_measured: Measurements that were not answered by the cache.
    """

    store: ArtifactStore
    threads: int
    budget_s: float
    clock: Clock
    gate: QuietGate | None = None
    runtime: str = "onnxruntime"
    device: Device = "cpu"
    waited_s: float = 0.0
    num_measured: int = field(default=0)

    def measure(self, onnx: bytes, *, batch_size: int) -> LatencyResult:
        """See `LatencyMeter.measure`. A noisy result is not cached, so it is measured anew when it is asked for again."""
        from foundry_ray.artifacts import manifests

        key = f"latency/{self.device_fingerprint()}/{graph_sha256(onnx)}-b{batch_size}.json"
        if self.store.stat(key) is not None:
            return _decoded(manifests.get_json(self.store, key), key)
        conditions = _Conditions(
            threads=self.threads, budget_s=self.budget_s, clock=self.clock, gate=self.gate, runtime=self.runtime, device=self.device
        )
        [result], waited_s = _measured(conditions, [onnx], batch_size)
        self.waited_s += waited_s
        self.num_measured += 1
        if not result.is_noisy:
            manifests.put_json(self.store, key, {"format_version": FORMAT_VERSION, "result": to_json(result)})
        return result

    def device_fingerprint(self) -> str:
        """16 hex digits over the CPU, the runtime with its version, its device and its threads."""
        parts: Json = [cpu_name(), self.runtime, runtime_version(self.runtime), self.device, self.threads]
        return canonical_sha256(parts)[:16]


def measure_pair(
    onnx_a: bytes, onnx_b: bytes, *, batch_size: int, threads: int, budget_s: float, clock: Clock, gate: QuietGate | None = None
) -> tuple[LatencyResult, LatencyResult]:
    """Measure two files side by side, in alternating blocks, within `2 * budget_s`: their ratio holds although the machine drifts."""
    conditions = _Conditions(threads=threads, budget_s=2 * budget_s, clock=clock, gate=gate)
    [first, second], _ = _measured(conditions, [onnx_a, onnx_b], batch_size)
    return first, second


def _decoded(document: Json, key: str) -> LatencyResult:
    return from_json(LatencyResult, envelope(document, what=key).get("result"), what=key)


def _measured(conditions: _Conditions, files: Sequence[bytes], batch_size: int) -> tuple[list[LatencyResult], float]:
    """Results of files timed together, and the seconds waited for quiet. Wide intervals are retried once, then marked."""
    runtimes = [open_runtime(onnx, threads=conditions.threads, runtime=conditions.runtime, device=conditions.device) for onnx in files]
    timings, is_quiet, waited_s = _timed(conditions, runtimes, batch_size)
    for _ in range(_RETRIES):
        if is_quiet and not any(timing.is_wide for timing in timings):
            break
        timings, is_quiet, again_s = _timed(conditions, runtimes, batch_size)
        waited_s += again_s
    results = [
        LatencyResult(
            graph_sha256=graph_sha256(onnx),
            device=cpu_name() if runtime.device == "cpu" else runtime.device,
            runtime=f"{runtime.name} {runtime_version(conditions.runtime)}",
            threads=conditions.threads,
            batch_size=batch_size,
            p50_ms=timing.p50_ms,
            p95_ms=timing.p95_ms,
            ci_ms=timing.ci_ms,
            n=timing.n,
            is_noisy=timing.is_wide or not is_quiet,
        )
        for onnx, runtime, timing in zip(files, runtimes, timings, strict=True)
    ]
    return results, waited_s


def _timed(conditions: _Conditions, runtimes: Sequence[Runtime], batch_size: int) -> tuple[list[Timing], bool, float]:
    import numpy as np

    generator = np.random.default_rng(0)
    shapes = [(batch_size, *runtime.image_shape) for runtime in runtimes]
    runs = [
        functools.partial(runtime.run, generator.integers(0, 256, shape, dtype=np.uint8)) for runtime, shape in zip(runtimes, shapes, strict=True)
    ]
    if conditions.gate is None:
        return [summarize(times) for times in sample(runs, budget_s=conditions.budget_s, clock=conditions.clock)], True, 0.0
    began_s = conditions.clock.monotonic_s()
    with conditions.gate.closed(conditions.clock) as is_quiet:
        waited_s = conditions.clock.monotonic_s() - began_s
        return [summarize(times) for times in sample(runs, budget_s=conditions.budget_s, clock=conditions.clock)], is_quiet, waited_s
