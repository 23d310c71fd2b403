"""The meter: once per graph and device, in quiet, and honest about noise."""

from __future__ import annotations

import functools
import json
import time

import numpy as np
import pytest

from foundry_ray.errors import ConfigError, StoreError
from foundry_ray.evaluation import QuietGate, RuntimeLatencyMeter, Served, measure_together
from foundry_ray.inference import register
from foundry_ray.protocols import RuntimeChoice
from foundry_ray.testing.clock import FakeClock

from .files import linear


class TickingClock(FakeClock):
    """Real time passes too."""

    def monotonic_s(self) -> float:
        return time.perf_counter() + sum(self.sleeps)


class ScriptedRuntime:
    """Takes as long as it is told: a run costs `costs_s[i % len]` of a fake clock."""

    name = "scripted"
    device = "cpu"
    input_shape = (1, 2, 2)
    input_dtype = "uint8"
    clock = FakeClock(0.0)
    costs_s: tuple[float, ...] = (0.001,)
    num_opened = 0

    def __init__(self) -> None:
        self.num_runs = 0

    def run(self, images_NCHW):
        self.clock.advance(self.costs_s[self.num_runs % len(self.costs_s)])
        self.num_runs += 1
        return np.zeros((len(images_NCHW), 2), dtype=np.float32)


@functools.cache
def scripted():
    @register("scripted")
    class ScriptedOpener:
        name = "scripted"
        device = "cpu"
        precisions = ("fp32", "bf16")

        def open(self, onnx, *, threads, precision, device):
            ScriptedRuntime.num_opened += 1
            return ScriptedRuntime()

        def check(self, precision):
            """It can do anything."""

        def version(self):
            return "1.0"


@pytest.fixture
def meter(memory_store, tmp_path):
    scripted()
    ScriptedRuntime.clock, ScriptedRuntime.costs_s, ScriptedRuntime.num_opened = FakeClock(0.0), (0.001,), 0
    gate = QuietGate(home=tmp_path)
    return RuntimeLatencyMeter(store=memory_store, threads=1, budget_s=1.0, clock=ScriptedRuntime.clock, gate=gate, runtime="scripted")


def test_a_graph_is_measured_once_whatever_its_weights(meter, memory_store):
    first = meter.measure(linear(1.0), batch_size=1)
    assert meter.measure(linear(2.0), batch_size=1) == first
    assert (meter.num_measured, ScriptedRuntime.num_opened) == (1, 1)
    assert first.p50_ms == pytest.approx(1.0)
    assert (first.runtime, first.batch_size, first.n, first.is_noisy) == ("scripted 1.0", 1, 100, False)
    [key] = memory_store.objects
    assert key == f"latency/{meter.device_fingerprint()}/{first.graph_sha256}-b1.json"


def test_another_batch_size_or_number_of_threads_is_another_measurement(meter):
    meter.measure(linear(1.0), batch_size=1)
    meter.measure(linear(1.0), batch_size=8)
    before = meter.device_fingerprint()
    meter.threads = 2
    assert meter.device_fingerprint() != before
    meter.measure(linear(1.0), batch_size=1)
    assert meter.num_measured == 3


def test_a_device_is_another_where_a_runtime_that_may_be_asked_for_has_another_version_or_is_gone(meter, monkeypatch):
    alone = meter.device_fingerprint()
    meter.others = ("scripted",)
    assert meter.device_fingerprint() == alone, "it is the default one"
    meter.others = ("onnxruntime", "openvino", "scripted")
    found = []
    for version in ("1", "2", ConfigError("it is not installed.", hint="install it.")):

        def told(_self, version=version):
            if isinstance(version, ConfigError):
                raise version
            return version

        monkeypatch.setattr("foundry_ray.inference.openvino.OpenVinoOpener.version", told)
        found.append(meter.device_fingerprint())
    assert len({alone, *found}) == 4


def test_another_runtime_precision_or_number_of_threads_of_a_recipe_is_another_measurement(meter):
    default = meter.measure(linear(1.0), batch_size=1)
    choices = [RuntimeChoice(name="scripted", threads=2), RuntimeChoice(name="scripted", precision="bf16"), RuntimeChoice()]
    others = [meter.measure(linear(1.0), batch_size=1, runtime=choice) for choice in choices]
    assert [other.threads for other in others] == [2, 1, 1]
    assert [other.runtime.partition(" ")[0] for other in others] == ["scripted", "scripted", "onnxruntime"]
    assert others[1].runtime == "scripted 1.0 bf16"
    assert meter.measure(linear(1.0), batch_size=1, runtime=RuntimeChoice(name="scripted", threads=1)) == default
    assert meter.num_measured == 4


def test_noise_that_stays_is_retried_once_marked_and_not_cached(meter, memory_store):
    ScriptedRuntime.costs_s = tuple(np.random.default_rng(0).exponential(0.02, 997))
    result = meter.measure(linear(1.0), batch_size=1)
    assert result.is_noisy
    assert not memory_store.objects
    assert 2.0 <= ScriptedRuntime.clock.monotonic_s() < 6.0


def test_waiting_for_quiet_is_no_part_of_the_measurement(meter, tmp_path):
    meter.gate = QuietGate(home=tmp_path, timeout_s=5.0)
    with meter.gate.closed(FakeClock()):
        result = meter.measure(linear(1.0), batch_size=1)
    assert result.is_noisy, "it was measured beside another measurement"
    assert result.p50_ms == pytest.approx(1.0)
    assert meter.waited_s >= 10.0


def test_a_cache_of_another_format_is_refused_by_name(meter, memory_store):
    meter.measure(linear(1.0), batch_size=1)
    [key] = memory_store.objects
    memory_store.put(key, json.dumps({"format_version": 99}).encode())
    with pytest.raises(StoreError, match="has format_version 99, this foundry reads up to 1"):
        meter.measure(linear(1.0), batch_size=1)


def test_a_pair_is_measured_side_by_side_in_the_real_runtime(tmp_path):
    choice = RuntimeChoice(threads=1)
    files = [Served(onnx=onnx, runtime=choice) for onnx in (linear(1.0), linear(1.0, side=64))]
    small, large = measure_together(files, batch_size=1, budget_s=0.2, clock=TickingClock(), gate=QuietGate(home=tmp_path))
    assert 0 < small.p50_ms < large.p50_ms
    assert small.p50_ms <= small.p95_ms
    assert small.ci_ms[0] <= small.p50_ms <= small.ci_ms[1]
    assert small.graph_sha256 != large.graph_sha256
    assert small.runtime.startswith("onnxruntime ")
