"""Deterministic mode lasts as long as it is asked for."""

from __future__ import annotations

import contextlib
import os

import pytest
import torch

from foundry_ray.training.determinism import deterministic


def test_it_ends_with_its_block_also_after_an_error() -> None:
    with contextlib.suppress(RuntimeError), deterministic(True):
        was_on = torch.are_deterministic_algorithms_enabled()
        raise RuntimeError
    assert was_on
    assert not torch.are_deterministic_algorithms_enabled()


def test_cublas_is_told_before_its_first_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(False):
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_without_it_nothing_changes() -> None:
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
