"""int8: in integers from the pixels on, close to fp32, and imitated exactly enough."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from foundry_ray.compression import quantize_onnx, simulate, to_onnx
from foundry_ray.compression.imitation import imitated
from foundry_ray.compression.quantize import INT8, quantized
from foundry_ray.compression.quantized_graph import quantize_weight
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.inference import graph_sha256, open_runtime
from foundry_ray.types import ImageSchema

from .conftest import built
from .test_export import Gelu, Mixed, logits


def fused_operators(data, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(str(tmp_path / "fused.onnx")).graph.node]


def test_a_trained_student_predicts_the_same_in_int8(trained, images, schema):
    exported = to_onnx(trained, schema)
    expected = open_runtime(exported).run(images)
    actual = open_runtime(quantize_onnx(exported, images[:128])).run(images)
    assert (expected.argmax(1) == np.arange(len(images)) % 4).mean() > 0.95, "the student has learnt"
    assert (expected.argmax(1) == actual.argmax(1)).mean() >= 0.99
    assert np.abs(expected - actual).max() / np.ptp(expected) < 0.05


@pytest.mark.parametrize("family", ["resnet", "cnn"])
def test_the_runtime_computes_in_integers_from_the_pixels_on(family, images, schema, tmp_path):
    model = built(images, family=family)
    operators = fused_operators(quantize_onnx(to_onnx(model, schema), images), tmp_path)
    assert not {"Conv", "FusedConv", "Add", "Relu", "Cast", "Sub", "Div", "QuantizeLinear"} & set(operators)
    assert operators.count("QLinearConv") == sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())


def test_channels_with_statistics_of_their_own_are_normalised_before_they_are_stored(schema):
    colour = ImageSchema(channels=3, height=16, width=16, dtype="uint8", classes=schema.classes)
    images = np.random.default_rng(1).integers(0, 256, (64, 3, 16, 16), dtype=np.uint8)
    model = built(images, schema=colour)
    model.normalize.mean.copy_(torch.tensor([100.0, 120.0, 140.0]).reshape(1, 3, 1, 1))
    data = quantize_onnx(to_onnx(model, colour), images)
    expected = logits(model, images)
    assert "Sub" in {node.op_type for node in onnx.load_model_from_string(data).graph.node}
    assert np.abs(open_runtime(data).run(images) - expected).max() / np.ptp(expected) < 0.05


def test_int8_is_a_third_of_the_bytes_and_another_graph(images, schema):
    exported = to_onnx(built(images, width=16), schema)
    quantized = quantize_onnx(exported, images)
    assert len(quantized) < len(exported) / 3
    assert graph_sha256(quantized) != graph_sha256(exported)


def test_calibration_changes_numbers_and_not_the_graph(model, images, schema):
    exported = to_onnx(model, schema)
    one, other = quantize_onnx(exported, images[:8]), quantize_onnx(exported, images[:8] // 2)
    assert one != other
    assert graph_sha256(one) == graph_sha256(other)
    assert one == quantize_onnx(exported, images[:8])


def test_pools_layers_alone_and_depthwise_convolutions_are_quantized(images, schema):
    model = Mixed().eval()
    expected = logits(model, images)
    actual = open_runtime(quantize_onnx(to_onnx(model, schema), images)).run(images)
    assert np.abs(actual - expected).max() / np.ptp(expected) < 0.1


def test_a_graph_of_another_exporter_is_quantized_where_it_can_be(images, schema):
    data = quantize_onnx(to_onnx(Gelu(), schema), images)
    operators = [node.op_type for node in onnx.load_model_from_string(data).graph.node]
    assert "QuantizeLinear" in operators
    assert open_runtime(data).run(images[:2]).shape == (2, 4)


def test_without_calibration_rows_it_is_refused(model, images, schema):
    with pytest.raises(RecipeInfeasible, match="got 0 calibration rows, wanted 1 or more"):
        quantize_onnx(to_onnx(model, schema), images[:0])


def test_a_graph_without_known_operators_is_refused(images, schema):
    class Plain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.flatten(x * 2, 1)

    with pytest.raises(RecipeInfeasible, match="no operator of this model has an int8 form"):
        quantize_onnx(to_onnx(Plain(), schema), images)


def test_a_weight_is_stored_within_half_a_step_and_a_bias_never_overflows():
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    weight[1] = 0
    integers, scale = quantize_weight(weight, None, 0.01)
    assert np.abs(integers * scale[:, None, None, None] - weight).max() <= scale.max() / 2 + 1e-7
    bias = np.full(4, 1e4, dtype=np.float32)
    _, wider = quantize_weight(weight * 1e-9, bias, 1e-3)
    assert (np.abs(bias / (wider * 1e-3)) < 2**31).all()


def test_a_simulated_student_gives_the_logits_of_the_shipped_file(trained, images, schema):
    simulated = simulate(trained, images[:128])
    shipped = open_runtime(quantize_onnx(to_onnx(trained, schema), images[:128])).run(images)
    np.testing.assert_array_equal(simulated(torch.from_numpy(images).float()).numpy(), shipped)


@pytest.mark.parametrize("family", ["resnet", "cnn"])
def test_the_imitation_for_gpus_predicts_as_the_file_does(family, trained, images, schema):
    model = trained if family == "resnet" else built(images, family=family)
    shipped = open_runtime(quantize_onnx(to_onnx(model, schema), images)).run(images)
    like = imitated(model, INT8, quantized(to_onnx(model, schema), images, INT8), schema)(torch.from_numpy(images).float()).numpy()
    assert (like.argmax(1) == shipped.argmax(1)).mean() >= 0.99
    assert np.abs(like - shipped).max() / np.ptp(shipped) < 0.02


def test_a_model_that_cannot_be_traced_has_no_imitation_and_is_still_simulated(images, schema):
    class Branching(Gelu):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.shape[0] > 0 and x.dtype == torch.float32 else x.float())

    model = Branching()
    assert imitated(model, INT8, quantized(to_onnx(model, schema), images, INT8), schema) is None
    assert simulate(model, images)(torch.from_numpy(images[:2]).float()).shape == (2, 4)
