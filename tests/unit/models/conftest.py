"""A user's own module, in a folder that is on the path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

Write = Callable[[str], None]
SOURCE = """
import torch
from torch import nn

from foundry_ray.models.layers import Normalize


class Words(nn.Module):
    def __init__(self, schema, width, tied):
        super().__init__()
        self.embed = nn.Embedding(schema.vocab_size, width)
        self.mix = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, schema.vocab_size, bias=False)
        self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids_BT):
        return self.head(self.mix(self.embed(ids_BT))[0]) * self.scale


def words(schema, width=6, tied=True):
    return Words(schema, width, tied)


def pixels(schema, normalises=True):
    front = Normalize(schema.channels) if normalises else nn.Identity()
    return nn.Sequential(front, nn.Flatten(), nn.Linear(schema.channels * schema.height * schema.width, len(schema.classes)))


def two_layers(schema):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, len(schema.classes)))


def broken(schema):
    return 1 / 0


def no_model(schema):
    return "a model"
"""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors lose more time to waking threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the user's module `their_models`, and forgets what was imported of it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> None:
        (tmp_path / "their_models.py").write_text(source)
        sys.modules.pop("their_models", None)

    write(SOURCE)
    yield write
    sys.modules.pop("their_models", None)
