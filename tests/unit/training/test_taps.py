"""Which layers of two models are compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundry_ray import models
from foundry_ray.config import ModelConfig
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.training.taps import Tap, matched, recording
from foundry_ray.types import ImageSchema

SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b"))


def network(family: str, width: int, depth: int) -> nn.Module:
    return models.build(ModelConfig(family=family, width=width, depth=depth), SCHEMA, None, seed=0).eval()


def on_images(model: nn.Module) -> object:
    return model(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("family", ["resnet", "cnn"])
def test_images_are_compared_at_the_end_of_each_resolution(family: str) -> None:
    pairs = matched(network(family, 4, 1), network(family, 8, 2), run=on_images)
    assert [(pair.grid, pair.student_width, pair.teacher_width) for pair in pairs] == [((8, 8), 4, 8), ((4, 4), 8, 16), ((2, 2), 16, 32)]
    if family == "resnet":
        assert [(pair.student.module, pair.teacher.module) for pair in pairs] == [
            ("blocks.0", "blocks.1"),
            ("blocks.1", "blocks.3"),
            ("blocks.2", "blocks.5"),
        ]


def test_what_comes_out_of_a_layer_is_recorded_and_nothing_stays_behind() -> None:
    model = network("cnn", 4, 1)
    pairs = matched(model, model, run=on_images)
    with recording(model, [pair.student for pair in pairs]) as found:
        on_images(model)
    assert [tuple(found[pair.student].shape) for pair in pairs] == [(2, 4, 8, 8), (2, 8, 4, 4), (2, 16, 2, 2)]
    assert all(bool((tensor >= 0).all()) for tensor in found.values())  # behind the activation that all layers share
    assert not any(module._forward_hooks for module in model.modules())


class Encoder(nn.Module):
    """Tokens through some blocks."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(depth))
        self.head = nn.Linear(width, 2)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens_BT)
        for block in self.blocks:
            x = x + block(x)
        logits: torch.Tensor = self.head(x.mean(1))
        return logits


def on_tokens(model: nn.Module) -> object:
    return model(torch.zeros(2, 7, dtype=torch.int64))


def test_blocks_of_sequences_are_compared_at_equal_shares_of_the_depth() -> None:
    pairs = matched(Encoder(4, 2), Encoder(6, 4), run=on_tokens)
    assert [(pair.student, pair.teacher) for pair in pairs] == [(Tap("blocks.0", 0), Tap("blocks.1", 0)), (Tap("blocks.1", 0), Tap("blocks.3", 0))]
    assert {pair.grid for pair in pairs} == {(7,)}
    deep = matched(Encoder(4, 9), Encoder(4, 9), run=on_tokens)
    assert [pair.student.module for pair in deep] == ["blocks.2", "blocks.5", "blocks.8"]


def test_a_network_of_vectors_is_compared_layer_by_layer() -> None:
    def mlp(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 2))

    pairs = matched(mlp(4), mlp(8), run=on_images)
    assert (pairs[-1].student, pairs[-1].student_width, pairs[-1].teacher_width, pairs[-1].grid) == (Tap("2", 0), 4, 8, ())


def test_the_outputs_of_a_recurrent_network_are_compared() -> None:
    class Recurrent(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.embedding, self.rnn, self.head = nn.Embedding(5, 4), nn.LSTM(4, width, batch_first=True), nn.Linear(width, 2)

        def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.rnn(self.embedding(tokens_BT))[0][:, -1])
            return logits

    [pair] = matched(Recurrent(3), Recurrent(6), run=on_tokens)
    assert (pair.student, pair.student_width, pair.teacher_width, pair.grid) == (Tap("rnn", 0), 3, 6, (7,))


def test_models_without_layers_in_common_are_refused() -> None:
    line = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(RecipeInfeasible, match="have no layers that can be compared: no equal resolution, and no repeated blocks"):
        matched(line, network("cnn", 4, 1), run=on_images)
