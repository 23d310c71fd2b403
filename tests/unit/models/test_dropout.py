"""Dropout before the head of the shipped families: there to be set, and invisible until it is."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from foundry_ray import models
from foundry_ray.config import ModelConfig
from foundry_ray.errors import OutOfRange
from foundry_ray.models.layers import set_dropout
from foundry_ray.types import ImageSchema, Preprocessing

SCHEMA = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b"))


def make(family: str) -> nn.Module:
    return models.build(ModelConfig(family=family, width=4, depth=1), SCHEMA, Preprocessing(mean=(0.0,), std=(1.0,)), seed=0)


@pytest.mark.parametrize("family", ["cnn", "resnet"])
def test_a_rate_acts_in_training_and_not_in_judging(family: str) -> None:
    model, inputs = make(family), torch.rand(2, 1, 8, 8)
    set_dropout(model, 0.5)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize("family", ["cnn", "resnet"])
def test_without_a_rate_training_draws_nothing(family: str) -> None:
    model, inputs = make(family), torch.rand(2, 1, 8, 8)
    state = torch.get_rng_state()
    model(inputs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", ["cnn", "resnet"])
def test_the_graph_the_weights_and_the_description_do_not_show_it(family: str) -> None:
    model = make(family)
    description = models.describe(model)
    set_dropout(model, 0.5)
    assert models.describe(model) == description
    assert not any("dropout" in name for name in model.state_dict())
    assert not any("dropout" in str(node.target) for node in fx.symbolic_trace(model.eval()).graph.nodes)


def test_every_kind_of_dropout_layer_is_set_and_nothing_else() -> None:
    model = nn.ModuleList([nn.Dropout(0.1), nn.Dropout2d(0.2), nn.AlphaDropout(0.3), nn.MultiheadAttention(4, 2, dropout=0.4), nn.Linear(2, 2)])
    set_dropout(model, None)
    assert [getattr(model[0], "p"), model[3].dropout] == [0.1, 0.4]  # noqa: B009
    set_dropout(model, 0.7)
    assert [getattr(module, "p", None) for module in model] == [0.7, 0.7, 0.7, None, None]
    assert model[3].dropout == 0.7


def test_a_rate_for_a_model_without_dropout_is_refused() -> None:
    set_dropout(nn.Linear(2, 2), 0.0)
    with pytest.raises(OutOfRange, match=r"train\.dropout is 0\.1, but Linear has no dropout layer.* Hint: leave `train\.dropout` out"):
        set_dropout(nn.Linear(2, 2), 0.1)
