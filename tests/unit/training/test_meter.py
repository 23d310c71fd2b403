"""What a meter reads, on a clock that the test moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training import meter
from foundry_ray.training.flops import training_flops
from foundry_ray.training.meter import Meter, open_meter, workload


class _LooksAtValues(nn.Module):
    """What cannot be computed from shapes alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) >= 0 else x


@pytest.fixture
def a100(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has not, as far as a meter looks at it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123)


def test_rates_are_those_since_the_last_read_without_the_pauses(clock: FakeClock) -> None:
    speed = Meter(clock=clock, device="cpu", world_size=2, tokens_per_sample=10)
    clock.advance(100.0)
    speed.start()
    clock.advance(3.0)
    first = speed.read(200, paused_s=1.0)
    clock.advance(1.0)
    second = speed.read(50)
    assert (first["samples_per_s"], first["tokens_per_s"]) == (100.0, 1000.0)
    assert second["samples_per_s"] == 50.0


def test_memory_is_what_the_process_holds(clock: FakeClock) -> None:
    assert 2**20 < Meter(clock=clock, device="cpu").read(1)["memory_bytes"] < 2**40


@pytest.mark.usefixtures("a100")
def test_mfu_is_needed_arithmetic_over_the_peak_of_all_ranks(clock: FakeClock) -> None:
    speed = Meter(clock=clock, device="cuda:0", world_size=2, flops_per_sample=312e9, dtype="bf16")
    clock.advance(1.0)
    assert speed.read(1000) == {"samples_per_s": 1000.0, "memory_bytes": 123.0, "mfu": 0.5}


@pytest.mark.usefixtures("a100")
def test_a_meter_of_a_workload_knows_its_arithmetic_and_its_number_format(clock: FakeClock, reporter: RecordingReporter) -> None:
    model, images = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Flatten(), nn.LazyLinear(10)), torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    model(images.float())
    speed = open_meter(workload(model, images, warn=reporter.warn), clock=clock, device="cuda:0", dtype=torch.float32)
    clock.advance(1.0)
    assert speed.read(1000)["mfu"] == pytest.approx(1000 * training_flops(model, images.float()) / 156e12)
    assert reporter.warnings == []


@pytest.mark.usefixtures("a100")
def test_a_model_that_looks_at_values_has_no_mfu_and_says_so(reporter: RecordingReporter) -> None:
    assert workload(_LooksAtValues(), torch.zeros(1, 4), warn=reporter.warn).flops_per_sample is None
    assert reporter.warnings[0].startswith("MFU is left out: the FLOPs of the model cannot be counted from shapes alone: ")


def test_nothing_is_counted_and_said_where_no_peak_is_known(clock: FakeClock, reporter: RecordingReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(meter, "training_flops", lambda model, sample: pytest.fail("counted for nothing"))
    work = workload(_LooksAtValues(), torch.zeros(1, 4), warn=reporter.warn)
    assert open_meter(work, clock=clock, device="cpu", dtype=torch.float32).read(1).keys() == {"samples_per_s", "memory_bytes"}
    assert reporter.warnings == []


def test_a_sequence_is_known_by_its_tokens(clock: FakeClock, reporter: RecordingReporter) -> None:
    work = workload(nn.Embedding(5, 2), torch.zeros(1, 7, dtype=torch.long), warn=reporter.warn)
    speed = open_meter(work, clock=clock, device="cpu", dtype=torch.float32)
    clock.advance(1.0)
    assert speed.read(2)["tokens_per_s"] == 14.0
