"""What a meter reads, on a clock that the test moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundry_ray.testing.clock import FakeClock
from foundry_ray.training import flops, meter
from foundry_ray.training.meter import Meter, open_meter


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


def test_mfu_is_needed_arithmetic_over_the_peak_of_all_ranks(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123)
    speed = Meter(clock=clock, device="cuda:0", world_size=2, flops_per_sample=312e9, dtype="bf16")
    clock.advance(1.0)
    assert speed.read(1000) == {"samples_per_s": 1000.0, "memory_bytes": 123.0, "mfu": 0.5}


def test_nothing_is_counted_where_the_peak_is_unknown(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "training_flops", lambda model, sample: pytest.fail("counted for nothing"))
    speed = open_meter(nn.Linear(4, 2), torch.zeros(1, 4), clock=clock, device="cpu", dtype=torch.float32)
    assert speed.read(1).keys() == {"samples_per_s", "memory_bytes"}


def test_a_sequence_is_known_by_its_tokens(clock: FakeClock) -> None:
    speed = open_meter(nn.Embedding(5, 2), torch.zeros(1, 7, dtype=torch.long), clock=clock, device="cpu", dtype=torch.float32)
    clock.advance(1.0)
    assert speed.read(2)["tokens_per_s"] == 14.0


def test_an_opened_meter_knows_the_models_arithmetic(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 0)
    model = nn.Linear(1000, 1000)
    speed = open_meter(model, torch.zeros(1, 1000), clock=clock, device="cuda:0", dtype=torch.float32)
    clock.advance(1.0)
    assert speed.read(1000)["mfu"] == pytest.approx(1000 * flops.training_flops(model, torch.zeros(1, 1000)) / 8.1e12)
