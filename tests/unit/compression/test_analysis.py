"""Analysis: costs that sum up, time that has an owner, couplings, what can be lost, and which ratio a limit takes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray.compression import cost
from foundry_ray.compression.analysis import analyze
from foundry_ray.compression.cutting import cut
from foundry_ray.compression.prune_params import PruneParams
from foundry_ray.errors import ConfigError
from foundry_ray.protocols import Given
from foundry_ray.reporting.analysis import analysis_view, write_plot
from foundry_ray.search.constraints import parse
from foundry_ray.types import to_json

from .architectures import TOKENS, made
from .conftest import built


@pytest.fixture
def given(images, schema) -> Given:
    return Given(schema=schema, task="image_classification", inputs_N=images, labels_N=np.arange(len(images), dtype=np.int64) % 4)


def shown(analysis) -> str:
    from rich.console import Console

    console = Console(width=160, file=io.StringIO())
    console.print(analysis_view(analysis))
    return console.file.getvalue()


def test_layers_sum_up_to_the_model_and_their_time_to_the_graph(images, schema):
    model = built(images, width=16)
    analysis = analyze(model, Given(schema=schema))
    assert sum(layer.num_params for layer in analysis.layers) == analysis.num_params == cost(model, schema).num_params
    assert sum(layer.num_macs for layer in analysis.layers) == analysis.num_macs == cost(model, schema).num_macs
    assert analysis.num_bytes == 4 * analysis.num_params
    assert sum(layer.latency_ratio for layer in analysis.layers) == pytest.approx(1.0)
    convolutions = sum(layer.latency_ratio for layer in analysis.layers if layer.kind == "Conv2d")
    assert convolutions > 0.5
    assert analysis.latency_ms > 0


def test_a_model_that_no_rows_are_given_for_says_so_and_the_rest(images, schema):
    analysis = analyze(built(images, width=8), Given(schema=schema))
    assert analysis.accuracy is None
    assert analysis.sensitivities == ()
    assert "no sensitivities: there are no training rows with labels to hold back" in analysis.notes
    assert {group.name for group in analysis.groups} >= {"blocks.0.first.0", "head"}


def test_groups_name_what_is_coupled_and_why_something_stays():
    model, schema = made("stubborn")
    groups = {group.name: group for group in analyze(model, Given(schema=schema), profile=False).groups}
    assert groups["head"].kept_because == "they are the model's outputs"
    assert "does not run any more once channels are gone" in groups["stem"].kept_because
    assert groups["middle"].layers == ("middle", "last")
    assert not groups["middle"].kept_because


def test_heads_are_counted_as_heads():
    model, _ = made("fused")
    heads = [group for group in analyze(model, Given(schema=TOKENS), profile=False).groups if group.is_heads]
    assert [group.num_units for group in heads] == [4]


class OneEye(nn.Module):
    """Each class is read off two channels of `used`; what `unused` makes is read by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv2d(1, 8, 8, stride=8), nn.Conv2d(1, 16, 8, stride=8)
        self.head, self.other = nn.Linear(32, 4), nn.Linear(64, 4)
        with torch.no_grad():
            self.other.weight.zero_()
            self.other.bias.zero_()
            self.used.weight.fill_(1 / 64)
            self.used.bias.zero_()
            self.head.weight.zero_()
            self.head.bias.zero_()
            for corner in range(4):
                for channel in (2 * corner, 2 * corner + 1):
                    self.head.weight[corner, 4 * channel + corner] = 100

    def forward(self, pixels):
        x = pixels / 255
        return self.head(self.used(x).flatten(1)) + self.other(self.unused(x).flatten(1))


def test_the_group_that_answers_come_from_is_the_sensitive_one(given):
    torch.manual_seed(0)
    analysis = analyze(OneEye(), given, ratios=(0.95,), num_rows=128, profile=False)
    assert (analysis.num_rows, analysis.accuracy) == (128, 1.0)
    lost = {one.name: 1.0 - one.accuracy for one in analysis.sensitivities if one.how == "prune"}
    assert lost["unused"] == 0.0
    assert lost["used"] > 0.5
    assert {one.name for one in analysis.sensitivities if one.how == "int8"} == {"used", "unused", "head", "other"}


def test_int8_alone_costs_where_one_large_weight_sets_the_scale_of_the_others(given):
    model = OneEye()
    with torch.no_grad():
        model.used.weight[1].zero_()
        model.head.weight[0, 0], model.head.weight[0, 4] = 200.0, 0.0
        model.head.weight[0, 5] = 1e5  # reads what is always 0, and makes the other weights of its row round to 0
    analysis = analyze(model, given, ratios=(0.95,), num_rows=128, profile=False)
    assert analysis.accuracy == 1.0
    lost = {one.name: 1.0 - one.accuracy for one in analysis.sensitivities if one.how == "int8"}
    assert lost["head"] == pytest.approx(0.25, abs=0.1)
    assert lost["used"] == lost["unused"] == 0.0


def test_analysing_leaves_the_model_and_the_generators_as_they_were(given, images):
    model = built(images, width=8).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    analyze(model, given, ratios=(0.5,), num_rows=32, profile=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training


def test_a_limit_names_the_smallest_ratio_that_keeps_it(given, images, schema):
    model = built(images, width=16)
    whole = cost(model, schema).num_macs
    limit = parse(f"num_macs <= {whole / 2:.0f}", where="test")
    [reached] = analyze(model, given, ratios=(), limits=[limit], profile=False).reached
    assert reached.values["num_macs"] <= whole / 2
    assert cost(cut(model, PruneParams(ratio=reached.ratio), given), schema).num_macs == reached.values["num_macs"]
    assert cost(cut(model, PruneParams(ratio=round(reached.ratio - 0.05, 2)), given), schema).num_macs > whole / 2


def test_a_limit_on_a_model_that_cannot_be_cut_is_noted_beside_the_rest(given):
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    analysis = analyze(model, given, ratios=(), limits=[parse("num_macs <= 100", where="test")], profile=False)
    assert (analysis.num_macs, analysis.reached) == (1024, ())
    assert any("no ratio for a limit: " in note and "can be taken out" in note for note in analysis.notes)


def test_limits_that_hold_already_and_that_nothing_reaches(given, images):
    limits = [parse(text, where="test") for text in ("num_params <= 1e9", "size_bytes <= 10", "latency_p50_ms <= 3")]
    found = analyze(
        built(images, width=16), given, ratios=(), limits=limits, profile=False, latency=lambda onnx: {"latency_p50_ms": len(onnx) / 10_000}
    ).reached
    assert [found[0].ratio, found[1].ratio] == [0.0, None]
    assert 0 < found[2].ratio < 0.95
    assert found[2].values["latency_p50_ms"] <= 3


def test_it_is_shown_as_a_table_a_figure_and_json(given, images, tmp_path):
    analysis = analyze(built(images, width=16), given, ratios=(0.5,), num_rows=64, limits=[parse("num_macs <= 1e5", where="test")])
    text = shown(analysis)
    assert "blocks.0.first.0" in text
    assert "-50%" in text
    assert "limit num_macs <= 100000: " in text
    write_plot(analysis, tmp_path / "anatomy.svg")
    assert (tmp_path / "anatomy.svg").read_text().startswith("<svg")
    with pytest.raises(ConfigError, match=r"anatomy.svg cannot be written: No such file or directory"):
        write_plot(analysis, tmp_path / "missing" / "anatomy.svg")
    document = to_json(analysis)
    assert document["groups"][0]["name"] == analysis.groups[0].name
