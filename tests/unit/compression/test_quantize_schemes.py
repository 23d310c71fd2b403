"""Every way to store a student: against its definition in numpy, in both runtimes, judged as it ships, and refused where it makes no sense."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given as such_as
from hypothesis import settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from foundry_ray import models
from foundry_ray.compression import check_recipe, effective, recipe_from_params, served, simulate, to_onnx
from foundry_ray.compression.calibration import NUM_BINS, calibration_rows, entropy_bins, percentile_bins, ranges
from foundry_ray.compression.half import rounded_half
from foundry_ray.compression.imitation import imitated
from foundry_ray.compression.integers import ZERO_INT4, in_groups, packed, per_channel, per_row
from foundry_ray.compression.mixed import held_back
from foundry_ray.compression.onnx_layers import layers
from foundry_ray.compression.quantize import quantized
from foundry_ray.compression.quantize_params import QuantizeParams
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.inference import open_runtime
from foundry_ray.protocols import Given
from foundry_ray.types import CompressionRecipe, Step, TokenSchema

from .conftest import built

TEXT = TokenSchema(length=12, vocab_size=50, classes=("a", "b", "c"))
SCHEMES = {
    "static": {"bits": 8},
    "entropy": {"bits": 8, "calibration": "entropy"},
    "percentile": {"bits": 8, "calibration": "percentile", "percentile": 99.9},
    "dynamic": {"bits": 8, "scheme": "dynamic"},
    "int8 weights": {"bits": 8, "scheme": "weight_only"},
    "int4 weights": {"bits": 4},
    "fp16": {"bits": 16},
    "bf16": {"bits": 16, "number": "bf16"},
}


def recipe(**params):
    return check_recipe(CompressionRecipe(steps=(Step(kind="quantize", params=params),)))


def params(**values):
    return QuantizeParams.model_validate(values)


def weight_bytes(data):
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load_model_from_string(data).graph.initializer)


def tokens(num_rows=64):
    return np.random.default_rng(0).integers(1, 50, (num_rows, 12))


def family(name, **size):
    torch.manual_seed(0)
    return models.get(name).build(TEXT, {"width": 16, "depth": 1, **({"heads": 2} if name == "transformer" else {}), **size}).eval()


def difference(first, second):
    return np.abs(first - second).max() / np.ptp(second)


def graph_of_abs():
    """A file with the activation "centred": the pixels less 100."""
    nodes = [helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT), helper.make_node("Sub", ["x", "c"], ["centred"])]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 1, 16, 16])
    result = helper.make_tensor_value_info("centred", TensorProto.FLOAT, ["batch", 1, 16, 16])
    graph = helper.make_graph(nodes, "g", [pixels], [result], [numpy_helper.from_array(np.asarray(100, np.float32), "c")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_ranges_are_the_extremes_or_a_percentile_of_all_rows(images):
    model, centred = graph_of_abs(), images.astype(np.float64) - 100
    assert ranges(model, ["centred"], images)["centred"] == (centred.min(), centred.max())
    bin_width = np.abs(centred).max() / NUM_BINS
    for percentile in (90.0, 99.0, 99.9):
        low, high = ranges(model, ["centred"], images, method="percentile", percentile=percentile)["centred"]
        threshold = np.percentile(np.abs(centred), percentile, method="inverted_cdf")
        assert threshold <= max(-low, high) + 1e-3
        assert max(-low, high) <= threshold + bin_width + 1e-3


def test_a_percentile_of_bins_holds_that_share():
    counts = np.array([50, 30, 19, 1])
    assert [percentile_bins(counts, percentile) for percentile in (50, 51, 80, 99, 99.5, 100)] == [1, 2, 2, 3, 4, 4]


def brute_force(counts, num_levels, candidates):
    """The same definition, bin by bin."""
    counts = [float(count) for count in counts]
    counts[0] = counts[1]
    found = []
    for kept in candidates:
        real = counts[:kept]
        real[-1] += sum(counts[kept:])
        stored = [0.0] * kept
        edges = [level * kept // num_levels for level in range(num_levels + 1)]
        for low, high in itertools.pairwise(edges):
            occupied = [place for place in range(low, high) if counts[place] > 0]
            for place in occupied:
                stored[place] = sum(counts[low:high]) / len(occupied)
        p, q = np.array(real) / sum(real), np.maximum(np.array(stored) / sum(stored), 1e-9)
        found.append((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
    return candidates[int(np.argmin(found))]


@pytest.mark.parametrize("is_signed", [True, False])
def test_entropy_finds_the_threshold_of_its_definition(is_signed):
    values = np.abs(np.random.default_rng(3).laplace(size=20000))
    counts = np.histogram(values, bins=512)[0]
    counts[0] = 60_000  # zeros, of which an activation behind a relu has most
    num_levels = 128 if is_signed else 256
    assert entropy_bins(counts, is_signed=is_signed) == brute_force(counts, num_levels, range(num_levels, 513, 8))


def test_entropy_leaves_a_lone_outlier_out():
    values = np.append(np.abs(np.random.default_rng(0).normal(size=50000)), 50.0)
    counts = np.histogram(values, bins=NUM_BINS)[0]
    assert entropy_bins(counts, is_signed=True) < NUM_BINS / 5


@settings(max_examples=30, deadline=None)
@such_as(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 70), st.sampled_from([1e-6, 1.0, 1e4]))
def test_integers_are_within_half_a_step_of_their_weights(seed, rows, columns, size):
    weight = (np.random.default_rng(seed).normal(size=(rows, columns)) * size).astype(np.float32)
    weight[0] = 0
    for values, scale in (per_channel(weight, 0), per_channel(weight, 1), per_row(weight)):
        assert np.abs(values.astype(int)).max() <= 127
        assert (np.abs(values * scale - weight) <= scale * 0.501).all()
    values, scale = in_groups(weight, 16)
    assert np.abs(values.astype(int)).max() <= 7
    assert (np.abs((values * scale).reshape(rows, -1)[:, :columns] - weight) <= np.repeat(scale[..., 0], 16, axis=1)[:, :columns] * 0.501).all()


def test_two_integers_share_a_byte_and_come_apart_again():
    values = np.random.default_rng(0).integers(-7, 8, (3, 2, 16)).astype(np.int8)
    for neighbours in (True, False):
        stored = packed(values, neighbours=neighbours)
        low, high = (stored & 15).astype(int) - ZERO_INT4, (stored >> 4).astype(int) - ZERO_INT4
        apart = np.stack([low, high], axis=-1).reshape(values.shape) if neighbours else np.concatenate([low, high], axis=-1)
        np.testing.assert_array_equal(apart, values)


def test_sixteen_bits_round_to_nearest():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(rounded_half(values, "bf16"), torch.from_numpy(values).bfloat16().float().numpy())
    np.testing.assert_array_equal(rounded_half(values, "fp16"), torch.from_numpy(values).half().float().numpy())


@pytest.mark.parametrize("name", SCHEMES)
def test_the_file_answers_as_the_imitation_in_torch_does(name, trained, images, schema):
    shipped = open_runtime(served(trained, recipe(**SCHEMES[name]), schema, images[:64])).run(images[:64])
    stored = params(**SCHEMES[name])
    like = imitated(trained, stored, quantized(to_onnx(trained, schema), images[:64], stored), schema)(torch.from_numpy(images[:64]).float()).numpy()
    rounds_activations = SCHEMES[name].get("scheme", "static") in ("static", "dynamic") and SCHEMES[name]["bits"] == 8
    assert difference(like, shipped) < (0.02 if rounds_activations else 1e-4)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_student_is_judged_by_the_file_that_ships(name, trained, images, schema):
    judged = simulate(trained, images[:64], recipe(**SCHEMES[name]))(torch.from_numpy(images).float()).numpy()
    shipped = open_runtime(served(trained, recipe(**SCHEMES[name]), schema, images[:64]))
    np.testing.assert_array_equal(judged, np.concatenate([shipped.run(images[start : start + 64]) for start in range(0, len(images), 64)]))
    assert (judged.argmax(1) == np.arange(len(images)) % 4).mean() > 0.95


@pytest.mark.parametrize("name", ["transformer", "rnn", "mlp"])
def test_every_scheme_stores_models_of_tokens_and_both_runtimes_load_them(name):
    pytest.importorskip("openvino")
    model, rows = family(name), tokens()
    exact = open_runtime(to_onnx(model, TEXT)).run(rows)
    for scheme in SCHEMES.values():
        data = served(model, recipe(**scheme), TEXT, rows[:32])
        answers = open_runtime(data).run(rows)
        assert np.abs(answers - exact).max() < np.abs(exact).max() * (0.3 if scheme["bits"] == 4 else 0.06), scheme
        assert difference(open_runtime(data, runtime="openvino").run(rows), answers) < 0.03, scheme


def test_openvino_loads_convolutions_of_every_scheme(trained, images, schema):
    pytest.importorskip("openvino")
    for scheme in SCHEMES.values():
        data = served(trained, recipe(**scheme), schema, images[:64])
        assert difference(open_runtime(data, runtime="openvino").run(images), open_runtime(data).run(images)) < 0.03, scheme


@pytest.mark.parametrize(
    ("scheme", "file_ratio", "weight_ratio"), [("static", 3.5, 3.8), ("int8 weights", 3.5, 3.8), ("int4 weights", 5, 6), ("fp16", 1.9, 1.95)]
)
def test_a_network_of_half_a_million_weights_is_that_much_smaller(scheme, file_ratio, weight_ratio, images, schema):
    model = built(images[:8], width=28, depth=2)
    assert 500_000 < sum(item.numel() for item in model.parameters()) < 700_000
    exported = to_onnx(model, schema)
    data = served(model, recipe(**SCHEMES[scheme]), schema, images[:8])
    assert len(exported) / len(data) >= file_ratio
    assert weight_bytes(exported) / weight_bytes(data) >= weight_ratio


def test_an_encoder_in_dynamic_int8_is_a_quarter_with_its_vocabulary():
    model = models.get("transformer").build(TokenSchema(length=12, vocab_size=2000, classes=("a", "b")), {"width": 128, "depth": 2, "heads": 4})
    wide = TokenSchema(length=12, vocab_size=2000, classes=("a", "b"))
    data = served(model, recipe(**SCHEMES["dynamic"]), wide, tokens(4))
    assert len(to_onnx(model, wide)) / len(data) >= 3.5
    assert weight_bytes(to_onnx(model, wide)) / weight_bytes(data) >= 3.8


@pytest.mark.parametrize("name", ["mlp", "resnet", "transformer"])
def test_onnxruntime_multiplies_integers_in_every_linear_layer_and_convolution(name, images, schema, tmp_path):
    model, kind = (family(name), TEXT) if name == "transformer" else (built(images[:8], family=name), schema)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    calibration = tokens(8) if kind is TEXT else images[:8]
    onnxruntime.InferenceSession(served(model, recipe(bits=8), kind, calibration), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    made = {output: node.op_type for node in nodes for output in node.output}
    assert not [node.op_type for node in nodes if node.op_type in ("Gemm", "Conv", "FusedGemm", "FusedConv")]
    assert not [node for node in nodes if node.op_type == "MatMul" and any(made.get(name) == "DequantizeLinear" for name in node.input)]


@pytest.mark.parametrize("scheme", ["static", "dynamic", "int8 weights", "int4 weights"])
def test_positions_are_stored_in_int8_and_restored_a_row_at_a_time(scheme):
    long = TokenSchema(length=96, vocab_size=50, classes=("a", "b", "c"))
    model = models.get("transformer").build(long, {"width": 16, "depth": 1, "heads": 2}).eval()
    graph = onnx.load_model_from_string(served(model, recipe(**SCHEMES[scheme]), long, tokens(8).repeat(8, axis=1))).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values, scale = per_row(model.positions.detach().numpy())
    np.testing.assert_array_equal(stored["positions/q"], values)
    np.testing.assert_allclose(stored["positions/scale"], scale, rtol=1e-6)
    assert not any(array.dtype == np.float32 and array.size >= values.size for array in stored.values())


def test_positions_can_be_kept_and_a_mask_that_is_added_stays_as_it_is():
    long = TokenSchema(length=96, vocab_size=50, classes=("a", "b", "c"))
    model = models.get("transformer").build(long, {"width": 16, "depth": 1, "heads": 2}).eval()
    whole = onnx.load_model_from_string(served(model, recipe(bits=8, keep="positions"), long, tokens(8).repeat(8, axis=1))).graph
    assert {tensor.name: tensor.data_type for tensor in whole.initializer}["positions"] == TensorProto.FLOAT
    nodes = [helper.make_node("Add", ["x", "mask"], ["y"])]
    mask = numpy_helper.from_array(np.triu(np.full((64, 64), -np.inf, np.float32), 1), "mask")
    assert layers(helper.make_graph(nodes, "g", [], [], [mask])) == []


class Attends(nn.Module):
    """For torch's exporter: attention, gelu, and a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.table, self.enter, self.norm = nn.Embedding(50, 32), nn.Linear(32, 32), nn.LayerNorm(32)
        self.qkv, self.out, self.up, self.down = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.lstm, self.head = nn.LSTM(32, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, rows):
        x = self.enter(self.table(rows))
        q, k, v = self.qkv(self.norm(x)).view(x.shape[0], x.shape[1], 3, 2, 16).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        x, _ = self.lstm(x + self.down(nn.functional.gelu(self.up(self.norm(x)))))
        return self.head(x.mean(1))


def test_a_file_of_torchs_exporter_is_stored_in_every_scheme_too():
    torch.manual_seed(0)
    exported, rows = to_onnx(Attends().eval(), TEXT), tokens()
    assert {layer.name for layer in layers(onnx.load_model_from_string(exported).graph)} == {
        "table",
        "enter",
        "qkv",
        "out",
        "up",
        "down",
        "lstm",
        "head",
    }
    exact = open_runtime(exported).run(rows)
    for scheme in SCHEMES.values():
        made = quantized(exported, rows[:32], params(**scheme, keep="head"))
        assert difference(open_runtime(made.onnx).run(rows), exact) < (0.15 if scheme["bits"] == 4 else 0.06), scheme
        assert weight_bytes(made.onnx) < weight_bytes(exported) / (1.9 if scheme["bits"] == 16 else 3), scheme
        arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load_model_from_string(made.onnx).graph.initializer]
        assert not [array.shape for array in arrays if array.dtype == np.float32 and array.size > 512], scheme


@pytest.mark.parametrize("name", ["static", "dynamic", "int8 weights", "int4 weights", "bf16"])
def test_a_kept_layer_keeps_its_weights_in_fp32(name):
    model, rows = family("mlp"), tokens()
    linear = {name: module.weight.detach().numpy() for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    kept, exact = max(linear.items(), key=lambda item: item[1].size)
    with_all = served(model, recipe(**SCHEMES[name]), TEXT, rows)
    with_one = served(model, recipe(**SCHEMES[name], keep=kept), TEXT, rows)

    def holds(data):
        arrays = (numpy_helper.to_array(tensor) for tensor in onnx.load_model_from_string(data).graph.initializer)
        return any(array.dtype == np.float32 and array.size == exact.size and array.ravel()[0] == exact.ravel()[0] for array in arrays)

    assert (holds(with_all), holds(with_one)) == (False, True)


def test_keeping_what_is_not_there_or_everything_is_refused(trained, images, schema):
    with pytest.raises(RecipeInfeasible, match="there is no layer 'tail' to keep") as caught:
        served(trained, recipe(bits=8, keep="tail"), schema, images)
    assert "head" in caught.value.hint
    everything = ",".join(layer.name for layer in layers(onnx.load_model_from_string(to_onnx(trained, schema)).graph))
    with pytest.raises(RecipeInfeasible, match="no operator of this model has an int8 form but those that are kept"):
        served(trained, recipe(bits=8, keep=everything), schema, images)


def with_a_bad_layer(images):
    """A network that has learnt the corners, whose second layer reads one huge number that it ignores: on its grid all others are zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))
    pixels, labels = torch.from_numpy(images).float(), torch.arange(len(images)) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(pixels / 255), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        model[1].weight /= 255
        model[1].weight[0] = 0
        model[1].bias[0] = 1e5
        model[3].weight[:, 0] = 0
    return model.eval()


def rows_of(images, schema):
    return Given(schema=schema, task="image_classification", inputs_N=images, labels_N=np.arange(len(images)) % 4)


def test_a_layer_that_costs_too_much_stays_in_fp32_and_no_other(images, schema):
    model, training = with_a_bad_layer(images), rows_of(images, schema)
    exported = to_onnx(model, schema)
    right = np.arange(len(images)) % 4
    assert (open_runtime(exported).run(images).argmax(1) == right).mean() > 0.95
    broken = open_runtime(served(model, recipe(bits=8), schema, images[:64])).run(images)
    assert (broken.argmax(1) == right).mean() < 0.8
    made = quantized(exported, images[:64], params(bits=8, accuracy_budget=0.5), given=training)
    assert made.kept == ("3",)
    assert (open_runtime(made.onnx).run(images).argmax(1) == right).mean() > 0.95
    assert made.notes[-1] == "kept in fp32: 3"
    assert "accuracy on 192 held-back training rows" in made.notes[-2]
    assert quantized(exported, images[:64], params(bits=8, accuracy_budget=0.5), given=training) == made


def test_within_the_budget_nothing_is_kept(trained, images, schema):
    made = quantized(to_onnx(trained, schema), images[:64], params(bits=8, accuracy_budget=5), given=rows_of(images, schema))
    assert made.kept == ()
    assert made.onnx == served(trained, recipe(bits=8), schema, images[:64])


def test_a_budget_without_rows_to_measure_on_is_refused(trained, images, schema):
    chosen = recipe(bits=8, accuracy_budget=1)
    with pytest.raises(RecipeInfeasible, match="needs training rows with labels"):
        served(trained, chosen, schema, images)
    with pytest.raises(RecipeInfeasible, match="needs training rows with labels beside the 256 of the calibration"):
        served(trained, chosen, schema, images, given=rows_of(images, schema))


def test_a_budget_is_measured_on_rows_with_a_label_alone(images, schema):
    """An unlabelled row is answered wrongly by all, so that points lost among many of them would look few."""
    rows = rows_of(images, schema)
    some = replace(rows, labels_N=np.where(np.arange(len(images)) % 3 == 0, rows.labels_N, -1))
    held = held_back(some, 64, None)
    assert len(held.labels_N) == sum(row % 3 == 0 for row in range(64, 256))
    assert (held.labels_N >= 0).all()


def test_calibration_rows_are_the_given_ones_or_drawn_by_a_seed(trained, images, schema):
    training = rows_of(images, schema)
    np.testing.assert_array_equal(calibration_rows(images[:32], None, None), images[:32])
    drawn = calibration_rows(images[:32], 7, training)
    assert len(np.unique(drawn.reshape(32, -1), axis=0)) == 32
    np.testing.assert_array_equal(drawn, calibration_rows(images[:32], 7, training))
    assert not np.array_equal(drawn, calibration_rows(images[:32], 8, training))
    made = quantized(to_onnx(trained, schema), images[:32], params(bits=8, calibration_seed=7), given=training)
    assert made.notes[0].startswith("int8 ranges from 32 training rows, sha256 ")
    assert made.notes[0].endswith(", drawn with seed 7")
    with pytest.raises(RecipeInfeasible, match="calibration_seed is 7, but no training rows are given"):
        served(trained, recipe(bits=8, calibration_seed=7), schema, images)


def test_fp16_refuses_what_it_cannot_hold(trained, images, schema):
    model = built(images)
    with torch.no_grad():
        model.head.weight[0, 0] = 1e6
    with pytest.raises(RecipeInfeasible, match=r"head.weight holds 1e\+06, wanted at most 65504") as caught:
        served(model, recipe(bits=16), schema, images)
    assert "bf16" in caught.value.hint
    assert served(model, recipe(bits=16, number="bf16"), schema, images)


def test_dynamic_int8_of_a_model_without_linear_layers_is_refused(images, schema):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(RecipeInfeasible, match="dynamic int8 multiplies in linear layers, and this model has none"):
        served(model, recipe(bits=8, scheme="dynamic"), schema, images)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"bits": 5}, "bits is 5, but must be 4, 8, 16 or 32"),
        ({"bits": 4, "scheme": "static"}, "scheme is static, which stores weights in 8 bits, but bits is 4"),
        ({"bits": 16, "scheme": "dynamic"}, "scheme is dynamic, which stores weights in 8 bits, but bits is 16"),
        ({"bits": 8, "scheme": "float"}, "scheme is float, which stores weights in 16 bits, but bits is 8"),
        ({"bits": 8, "scheme": "dynamic", "calibration": "entropy"}, "calibration is set, but it needs scheme: static"),
        ({"bits": 8, "percentile": 99}, "percentile is set, but it needs calibration: percentile"),
        ({"bits": 8, "calibration": "percentile", "percentile": 20}, "percentile is 20"),
        ({"bits": 8, "calibration": "best"}, "calibration is 'best'"),
        ({"bits": 8, "group": 64}, "group is set, but it needs bits: 4"),
        ({"bits": 4, "group": 24}, "group is 24"),
        ({"bits": 8, "number": "bf16"}, "number is set, but it needs bits: 16"),
        ({"bits": 8, "qat_from": 0.2}, "qat_from is set, but it needs qat: true"),
        ({"bits": 8, "scheme": "weight_only", "qat": True}, "qat is set, but it needs scheme: static"),
        ({"bits": 8, "qat": True, "calibration": "entropy"}, "with qat ranges are learnt in training"),
        ({"bits": 8, "qat": True, "accuracy_budget": 1}, "says nothing of a student that is trained for int8"),
        ({"bits": 8, "qat": True, "qat_from": 1}, "qat_from is 1"),
        ({"bits": 8, "accuracy_budget": -1}, "accuracy_budget is -1"),
        ({"bits": 32, "keep": "head"}, "bits is 32, which is fp32, but keep is set"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(chosen, message):
    with pytest.raises(RecipeInfeasible, match=message):
        recipe(**chosen)


def test_equal_wishes_have_one_form_and_others_make_other_students(images):
    assert recipe(bits=8, scheme="static", calibration="minmax", keep=" b, a,b") == recipe(bits=8, keep="a,b")
    assert recipe(bits=8).steps[0].params == {"bits": 8}
    assert recipe(bits=4, scheme="weight_only").steps[0].params == {"bits": 4}
    model = built(images)
    found = {effective(model, recipe(**scheme)) for scheme in (*SCHEMES.values(), {"bits": 8, "keep": "head"}, {"bits": 8, "accuracy_budget": 1})}
    assert len(found) == len(SCHEMES) + 2
    assert recipe_from_params({"weight_bits": 8, "quantize.scheme": "dynamic"})[1] == recipe(**SCHEMES["dynamic"])
