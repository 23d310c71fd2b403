"""Latency of a deployed graph, measured through `inference` in quiet, once per graph and device.

Decides: what is measured, when a result counts as noisy, where it is cached. Leaves to others: the statistics (timing), the quiet (quiet).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from foundry_ray.documents import envelope
from foundry_ray.errors import BadRecord, ConfigError
from foundry_ray.evaluation.quiet import QuietGate
from foundry_ray.evaluation.timing import Timing, sample, summarize
from foundry_ray.inference import device_name, graph_sha256, open_choice, runtime_device, runtime_version
from foundry_ray.inference.rows import noise
from foundry_ray.protocols import ArtifactStore, Clock, RuntimeChoice
from foundry_ray.types import FORMAT_VERSION, Json, LatencyResult, canonical_sha256, from_json, to_json

if TYPE_CHECKING:
    from foundry_ray.inference import Runtime

_RETRIES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conditions:
    """Under which a measurement is taken."""

    budget_s: float
    clock: Clock
    gate: QuietGate | None


@dataclass(kw_only=True)
class RuntimeLatencyMeter:
    """A LatencyMeter whose results are kept in the store under `latency/<device fingerprint>/<graph>-b<batch>.json`.

    Attributes:
        threads: Threads of a runtime whose choice names none.
        budget_s: Time of one measurement, without waiting and loading.
        gate: The node's quiet; None measures at once.
        runtime: The default one.
        others: Further runtimes that may be asked for: their versions are a part of what identifies the device.
        waited_s: Seconds spent waiting for quiet so far, which are no part of the measurement.
        num_measured: Measurements that were not answered by the cache.
    """

    store: ArtifactStore
    threads: int
    budget_s: float
    clock: Clock
    gate: QuietGate | None = None
    runtime: str = "onnxruntime"
    others: tuple[str, ...] = ()
    waited_s: float = 0.0
    num_measured: int = field(default=0)

    def measure(self, onnx: bytes, *, batch_size: int, runtime: RuntimeChoice | None = None) -> LatencyResult:
        """See `LatencyMeter.measure`. A noisy result is not cached, so it is measured anew when it is asked for again.

        Raises:
            ConfigError: This machine cannot run that runtime.
        """
        from foundry_ray.artifacts import manifests

        choice = with_threads(runtime or RuntimeChoice(name=self.runtime), self.threads)
        key = f"latency/{fingerprint(choice)}/{graph_sha256(onnx)}-b{batch_size}.json"
        if self.store.stat(key) is not None:
            return _decoded(manifests.get_json(self.store, key), key)
        conditions = _Conditions(budget_s=self.budget_s, clock=self.clock, gate=self.gate)
        [result], waited_s = _measured(conditions, [Served(onnx=onnx, runtime=choice)], batch_size)
        self.waited_s += waited_s
        self.num_measured += 1
        if not result.is_noisy:
            manifests.put_json(self.store, key, {"format_version": FORMAT_VERSION, "result": to_json(result)})
        return result

    def device_fingerprint(self) -> str:
        """See `fingerprint`; where further runtimes may be asked for, of all of them that are installed."""
        own = fingerprint(RuntimeChoice(name=self.runtime, threads=self.threads))
        more: list[Json] = [_known(RuntimeChoice(name=name, threads=self.threads)) for name in sorted({*self.others} - {self.runtime})]
        return canonical_sha256([own, *more])[:16] if more else own


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A file and what runs it, with its threads."""

    onnx: bytes
    runtime: RuntimeChoice


def can_run(onnx: bytes, choice: RuntimeChoice) -> bool:
    """Whether a runtime has all operators of a file. Raises ConfigError where this machine cannot run it at all."""
    try:
        open_choice(onnx, choice)
    except BadRecord:
        return False
    return True


def with_threads(choice: RuntimeChoice, threads: int) -> RuntimeChoice:
    """A choice with so many threads where it names none."""
    return choice if choice.threads else replace(choice, threads=threads)


def fingerprint(choice: RuntimeChoice) -> str:
    """16 hex digits over the hardware, the runtime with its version, where it computes, its threads, and a precision other than fp32."""
    device = runtime_device(choice.name)
    parts: list[Json] = [device_name(device), choice.name, runtime_version(choice.name), device, choice.threads]
    return canonical_sha256(parts if choice.precision == "fp32" else [*parts, choice.precision])[:16]


def _known(choice: RuntimeChoice) -> str:
    try:
        return fingerprint(choice)
    except ConfigError:
        return f"{choice.name} is not installed"


def measure_together(
    files: Sequence[Served], *, batch_size: int, budget_s: float, clock: Clock, gate: QuietGate | None = None
) -> tuple[LatencyResult, ...]:
    """Measure files side by side, in alternating blocks, within `budget_s` for each: their ratios hold although the machine drifts.

    Raises:
        ConfigError: This machine cannot run one of the runtimes.
    """
    conditions = _Conditions(budget_s=len(files) * budget_s, clock=clock, gate=gate)
    return tuple(_measured(conditions, files, batch_size)[0])


def _decoded(document: Json, key: str) -> LatencyResult:
    return from_json(LatencyResult, envelope(document, what=key).get("result"), what=key)


def _measured(conditions: _Conditions, files: Sequence[Served], batch_size: int) -> tuple[list[LatencyResult], float]:
    """Results of files timed together, and the seconds waited for quiet. Wide intervals are retried once, then marked."""
    runtimes = [open_choice(file.onnx, file.runtime) for file in files]
    timings, is_quiet, waited_s = _timed(conditions, runtimes, batch_size)
    for _ in range(_RETRIES):
        if is_quiet and not any(timing.is_wide for timing in timings):
            break
        timings, is_quiet, again_s = _timed(conditions, runtimes, batch_size)
        waited_s += again_s
    results = [
        LatencyResult(
            graph_sha256=graph_sha256(file.onnx),
            device=device_name(runtime.device),
            runtime=_described(file.runtime),
            threads=file.runtime.threads,
            batch_size=batch_size,
            p50_ms=timing.p50_ms,
            p95_ms=timing.p95_ms,
            ci_ms=timing.ci_ms,
            n=timing.n,
            is_noisy=timing.is_wide or not is_quiet,
        )
        for file, runtime, timing in zip(files, runtimes, timings, strict=True)
    ]
    return results, waited_s


def _described(choice: RuntimeChoice) -> str:
    """As "openvino 2026.4.1 bf16"; fp32 goes without saying."""
    return f"{choice.name} {runtime_version(choice.name)}{'' if choice.precision == 'fp32' else f' {choice.precision}'}"


def _timed(conditions: _Conditions, runtimes: Sequence[Runtime], batch_size: int) -> tuple[list[Timing], bool, float]:
    import numpy as np

    runs = [functools.partial(runtime.run, noise(runtime, batch_size, np.random.default_rng(0))) for runtime in runtimes]
    if conditions.gate is None:
        return [summarize(times) for times in sample(runs, budget_s=conditions.budget_s, clock=conditions.clock)], True, 0.0
    began_s = conditions.clock.monotonic_s()
    with conditions.gate.closed(conditions.clock) as is_quiet:
        waited_s = conditions.clock.monotonic_s() - began_s
        return [summarize(times) for times in sample(runs, budget_s=conditions.budget_s, clock=conditions.clock)], is_quiet, waited_s
