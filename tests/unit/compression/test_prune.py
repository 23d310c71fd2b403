"""Structured pruning: what goes is gone, what stays answers, and what cannot go is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from foundry_ray.compression import cost
from foundry_ray.compression.cutting import cut_one
from foundry_ray.compression.groups import Couplings
from foundry_ray.compression.prune import Prune
from foundry_ray.compression.recalibrate import recalibrate
from foundry_ray.compression.recurrent_cuts import RECURRENT
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.models.slim_attention import with_slim_attention
from foundry_ray.protocols import Given

from .architectures import ARCHITECTURES, IMAGES, TOKENS, inputs_of, made
from .conftest import built


def rows(schema, num_rows: int = 48, seed: int = 0) -> Given:
    """Training rows with labels."""
    inputs_N = inputs_of(schema, num_rows).numpy().astype("uint8" if schema is not TOKENS else "int64")
    return Given(schema=schema, task="image_classification", inputs_N=inputs_N, labels_N=np.arange(num_rows) % 4, seed=seed)


def pruned(model, given, **params):
    return Prune().apply(model, params, given=given)


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


@pytest.mark.parametrize("family", ["cnn", "resnet"])
def test_half_of_the_channels_are_a_third_of_the_multiplications_or_less(family, images, schema):
    teacher = built(images, family=family, width=32)
    before, after = cost(teacher, schema), cost(pruned(teacher, Given(schema=schema), ratio=0.5), schema)
    assert before.num_macs >= 3 * after.num_macs


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_architecture_loses_parameters_and_answers_as_before_in_shape(name):
    model, schema = made(name)
    inputs = inputs_of(schema, 3)
    smaller = pruned(model, Given(schema=schema), ratio=0.5)
    with torch.no_grad():
        assert smaller(inputs).shape == model(inputs).shape
        assert smaller(inputs).isfinite().all()
    assert cost(smaller, schema).num_params < 0.8 * cost(model, schema).num_params
    assert cost(smaller, schema).num_params == sum(parameter.numel() for parameter in smaller.parameters())


def deafen(coupling, units) -> None:
    """Let nothing read these units any more."""
    positions = set(coupling.units_UM[units].flatten().tolist())
    with torch.no_grad():
        for member in coupling.members:
            gone = [position for position, root in zip(member.positions, member.roots, strict=True) if root in positions]
            if member.role == "reads":
                weight = member.layer.weight if not isinstance(member.layer, RECURRENT) else member.layer.weight_ih_l0
                (weight if isinstance(member.layer, RECURRENT) or weight.shape[1] > max(gone) else weight.transpose(0, 1))[:, gone] = 0
            elif member.role == "makes" and isinstance(member.layer, RECURRENT):
                for name, weight in member.layer.named_parameters():
                    if name.startswith("weight_hh"):
                        weight[:, sorted({unit % member.layer.hidden_size for unit in gone})] = 0
                    elif name.startswith("weight_ih") and "_l0" not in name:
                        weight[:, gone] = 0


@pytest.mark.parametrize(
    ("name", "coupling_name"),
    [
        ("encoder", "encoder.layers.1.linear1"),
        ("encoder", "encoder.layers.1.self_attn.out:heads"),
        ("bert", "bert.encoder.layer.0.intermediate.dense"),
        ("bert", "bert.encoder.layer.2.attention.output.dense:heads"),
        ("fused", "out:heads"),
        ("lstm", "rnn"),
        ("gru", "rnn"),
        ("lstm, two layers, both directions", "rnn"),
        ("gru, last states of both directions", "rnn"),
        ("concatenated", "left"),
        ("concatenated", "joined"),
        ("inverted", "block.0"),
        ("grouped", "mixed"),
        ("tied", "first"),
    ],
)
def test_what_nobody_reads_can_go_and_no_answer_changes(name, coupling_name):
    model, schema = made(name)
    model = with_slim_attention(model)
    [coupling] = [one for one in Couplings(model, schema).found if one.name == coupling_name]
    assert not coupling.kept_because
    units = list(range(1, coupling.num_units, 2))
    deafen(coupling, units)
    inputs = inputs_of(schema, 4)
    with torch.no_grad():
        expected, before = model(inputs), shapes(model)
        cut_one(model, coupling_name, units, Given(schema=schema))
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
    assert sum(np.prod(shape) for shape in shapes(model).values()) < sum(np.prod(shape) for shape in before.values())


def test_heads_go_and_the_numbers_that_a_module_remembers_of_them_follow():
    for name, heads in (("bert", "bert.encoder.layer.0.attention.self.query"), ("encoder", "encoder.layers.0.self_attn.query"), ("fused", "qkv")):
        model, schema = made(name)
        smaller = pruned(model, Given(schema=schema), heads_ratio=0.5, scope="group")
        rows_before = dict(with_slim_attention(made(name)[0]).named_parameters())[f"{heads}.weight"].shape[0]
        assert smaller.get_parameter(f"{heads}.weight").shape[0] == rows_before // 2
    assert smaller.num_heads == 2


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # torch's own way past its attention
def test_torch_s_own_attention_is_the_same_function_before_anything_goes():
    model, schema = made("encoder")
    inputs, blocked = inputs_of(schema, 4), torch.zeros(4, 6, dtype=torch.bool)
    blocked[:, 4:] = True
    with torch.no_grad():
        embedded = model.embedding(inputs)
        expected = model(inputs), model.encoder(embedded, src_key_padding_mask=blocked), model.encoder.layers[0].self_attn(*[embedded] * 3)
        slim = with_slim_attention(model)
        found = slim(inputs), slim.encoder(embedded, src_key_padding_mask=blocked), slim.encoder.layers[0].self_attn(*[embedded] * 3)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1][:, :4], expected[1][:, :4])
    torch.testing.assert_close(found[2], expected[2])


def test_whole_layers_go_where_they_change_least_what_passes_them():
    model, schema = made("bert")
    quiet = model.bert.encoder.layer[1]
    with torch.no_grad():
        for dense in (quiet.attention.output.dense, quiet.output.dense):
            dense.weight.mul_(1e-3)
    smaller = pruned(model, rows(schema), layers_ratio=0.3)
    kept = smaller.bert.encoder.layer
    assert len(kept) == 2
    assert torch.equal(kept[0].output.dense.weight, model.bert.encoder.layer[0].output.dense.weight)
    assert torch.equal(kept[1].output.dense.weight, model.bert.encoder.layer[2].output.dense.weight)


def test_layers_without_a_shortcut_are_not_left_out(images, schema):
    given = Given(schema=schema, task="image_classification", inputs_N=images)
    with pytest.raises(RecipeInfeasible, match="Cnn has no residual layer in a list of layers"):
        pruned(built(images, family="cnn", width=16, depth=2), given, layers_ratio=0.5)
    deep = built(images, width=8, depth=3)
    assert len(pruned(deep, given, layers_ratio=0.5).blocks) == 5
    with pytest.raises(RecipeInfeasible, match="asks which layers change least on training rows, but got no rows"):
        pruned(deep, Given(schema=schema), layers_ratio=0.5)


def test_a_layer_norm_keeps_the_order_of_its_channels():
    model, schema = made("encoder")
    model = with_slim_attention(model)
    norm, kept = model.encoder.layers[0].norm1, [0, 3, 8, 16, 24, 31]
    with torch.no_grad():
        norm.weight.copy_(torch.arange(32.0))
    [stream] = [one for one in Couplings(model, schema).found if any(member.layer is norm for member in one.members)]
    cut_one(model, stream.name, sorted(set(range(32)) - set(kept)), Given(schema=schema))
    assert norm.weight.tolist() == kept
    assert norm.normalized_shape == (6,)


def test_shared_weights_stay_shared():
    model, schema = made("tied")
    smaller = pruned(model, Given(schema=schema), ratio=0.5)
    assert smaller.out.weight is smaller.embedding.weight
    assert smaller.out.weight.shape[1] < 32


def test_a_group_that_breaks_the_model_is_left_whole_and_the_rest_goes():
    model, schema = made("stubborn")
    smaller = pruned(model, Given(schema=schema), ratio=0.5)
    assert smaller.stem.out_channels == 16
    assert smaller.last.out_features < 32


def test_shuffled_channels_are_not_cut():
    model, schema = made("shuffled")
    reasons = {coupling.name: coupling.kept_because for coupling in Couplings(model, schema).found}
    assert reasons["first"] == "they are reshaped in a way that mixes them"
    assert pruned(model, Given(schema=schema), ratio=0.5).second.out_channels < 32


class OnlyHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 4)

    def forward(self, pixels):
        return self.head(pixels.flatten(1))


class Untraceable(OnlyHead):
    def forward(self, pixels):
        raise ValueError("the author says no")


@pytest.mark.parametrize(
    ("model", "params", "why"),
    [
        (OnlyHead(), {"ratio": 0.5}, "no channels of OnlyHead can be taken out: head: they are the model's outputs"),
        (OnlyHead(), {"ratio": 0.5, "heads_ratio": 0.5}, "no channels of OnlyHead"),
        (made("inverted")[0], {"heads_ratio": 0.5}, "no attention heads of Inverted can be taken out: it has no attention heads"),
        (made("inverted")[0], {"ratio": 0.5, "round_to": 64}, "the others have 64 channels or fewer"),
    ],
)
def test_a_model_that_has_nothing_to_lose_is_refused_with_the_reason(model, params, why):
    with pytest.raises(RecipeInfeasible, match=why):
        pruned(model, Given(schema=IMAGES), **params)


def test_weights_that_are_computed_from_others_are_not_cut(schema):
    layers = [weight_norm(nn.Conv2d(1, 16, 3)), nn.ReLU(), weight_norm(nn.Conv2d(16, 16, 3)), nn.Flatten(), nn.Linear(16 * 144, 4)]
    with pytest.raises(RecipeInfeasible, match=r"a tensor of 0 is computed from others \(torch.nn.utils.parametrize\)"):
        pruned(nn.Sequential(*layers), Given(schema=schema), ratio=0.5)


def test_a_graph_that_cannot_be_followed_is_refused_with_its_reason():
    with pytest.raises(RecipeInfeasible, match="the author says no"):
        pruned(Untraceable(), Given(schema=IMAGES), ratio=0.5)


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_scale", "taylor", "random"])
def test_every_criterion_prunes_and_gives_the_same_student_each_time(criterion):
    model, schema = made("concatenated")
    state = torch.random.get_rng_state()
    first, second = (pruned(model, rows(schema), ratio=0.5, criterion=criterion, round_to=1).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first["joined.weight"].numel() < model.joined.weight.numel()


def test_slices_measure_anew(images, schema):
    teacher = built(images, width=16)
    once, sliced = (pruned(teacher, Given(schema=schema), ratio=0.6, iterations=iterations, round_to=1) for iterations in (1, 6))
    assert cost(sliced, schema).num_params == pytest.approx(cost(once, schema).num_params, rel=0.3)
    assert shapes(once) != shapes(sliced)


@pytest.mark.parametrize("round_to", [1, 4, 16])
def test_counts_are_rounded_as_asked(round_to, images, schema):
    smaller = pruned(built(images, width=32), Given(schema=schema), ratio=0.37, round_to=round_to)
    widths = [module.out_channels for module in smaller.modules() if isinstance(module, nn.Conv2d)]
    assert all(width % round_to == 0 for width in widths)
    assert any(width % (2 * round_to) for width in widths)


def test_frozen_weights_stay_frozen_and_the_mode_stays(images, schema):
    teacher = built(images, width=16).requires_grad_(False)
    smaller = pruned(teacher, Given(schema=schema), ratio=0.5)
    assert not any(parameter.requires_grad for parameter in smaller.parameters())
    assert not smaller.training


def test_statistics_are_taken_anew_from_training_rows(images, schema):
    teacher = built(images, family="cnn", width=16)
    given = Given(schema=schema, task="image_classification", inputs_N=images, labels_N=np.arange(len(images)) % 4)
    stale, fresh = (pruned(teacher, given, ratio=0.5, recalibrate=recalibrate) for recalibrate in (False, True))
    pixels = torch.from_numpy(images).float()
    with torch.no_grad():
        made_by_first = fresh.layers[0].conv(fresh.normalize(pixels))
    norm, old = fresh.layers[0].norm, stale.layers[0].norm
    torch.testing.assert_close(norm.running_mean, made_by_first.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(norm.running_mean, old.running_mean)
    assert norm.momentum == old.momentum
    assert norm.num_batches_tracked == old.num_batches_tracked


def test_recalibrating_needs_rows_and_norms_and_leaves_the_generator_alone(images, schema):
    model = built(images, width=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not recalibrate(model, Given(schema=schema))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    state = torch.random.get_rng_state()
    model.dropout.p = 0.5
    assert recalibrate(model.train(), Given(schema=schema, inputs_N=images))
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert not recalibrate(nn.Linear(4, 4), Given(schema=schema, inputs_N=images))
