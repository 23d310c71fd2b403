"""Export: the file answers as the model, whatever the model is made of."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from foundry_ray.compression import recipe_from_params, served, to_onnx
from foundry_ray.compression.onnx_graph import Unsupported
from foundry_ray.compression.onnx_layers import is_traced
from foundry_ray.compression.parity import check_export
from foundry_ray.inference import graph_sha256, open_runtime
from foundry_ray.types import ImageSchema

from .conftest import built


def logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(images).float()).numpy()


def assert_same(model: nn.Module, images: np.ndarray, schema: ImageSchema) -> bytes:
    data = to_onnx(model, schema)
    expected = logits(model, images)
    np.testing.assert_allclose(open_runtime(data).run(images), expected, rtol=0, atol=1e-5 * np.ptp(expected))
    return data


def is_direct(data: bytes) -> bool:
    """Written in milliseconds, and not by torch's exporter."""
    return is_traced(onnx.load_model_from_string(data).graph)


@pytest.mark.parametrize("family", ["resnet", "cnn"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_family_exports_directly_and_answers_as_torch_does(family, depth, images, schema):
    model = built(images, family=family, depth=depth)
    assert is_direct(assert_same(model, images[:16], schema))


def test_the_file_has_the_promised_signature_and_holds_its_weights(model, schema):
    graph = onnx.load_model_from_string(to_onnx(model, schema)).graph
    [pixels], [result] = graph.input, graph.output
    assert (pixels.name, pixels.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
    assert [dim.dim_value or dim.dim_param for dim in pixels.type.tensor_type.shape.dim] == ["batch", 1, 16, 16]
    assert (result.name, result.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.initializer)
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_any_batch_size_runs(model, images, schema):
    runtime = open_runtime(to_onnx(model, schema))
    np.testing.assert_allclose(runtime.run(images[:5])[2:3], runtime.run(images[2:3]), atol=1e-4)


def test_exporting_leaves_the_model_as_it_was(model, schema):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    to_onnx(model, schema)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_equal_models_give_equal_bytes(images, schema):
    assert to_onnx(built(images), schema) == to_onnx(built(images), schema)


def test_an_export_costs_a_small_part_of_the_second_that_a_sweep_cannot_afford(model, schema):
    to_onnx(model, schema)
    took_s = []
    for _ in range(3):
        began_s = time.process_time()
        to_onnx(model, schema)
        took_s.append(time.process_time() - began_s)
    assert min(took_s) < 0.2


def test_a_model_in_bf16_exports_in_fp32(images, schema):
    model = built(images).to(torch.bfloat16)
    assert open_runtime(to_onnx(model, schema)).run(images[:2]).dtype == np.float32


class Mixed(nn.Module):
    """Every operator that is written directly and that the shipped families do not use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.alone = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, stride=2, groups=4, bias=False)
        self.pools = nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2, 1), nn.Dropout(0.5), nn.Identity())
        self.head = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x.float() * 0.01)
        x = self.alone(x) - x / 2
        x = self.pools(torch.relu(self.depthwise(x)))
        return self.head(x.mean((2, 3)))


def test_other_operators_are_written_too(images, schema):
    model = Mixed()
    model(torch.from_numpy(images).float())
    assert is_direct(assert_same(model, images[:8], schema))


class Gelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.conv(x)).amax((2, 3))


def test_an_unknown_operator_goes_through_the_exporter_of_torch(images, schema):
    model = Gelu()
    data = assert_same(model, images[:8], schema)
    assert not is_direct(data)
    assert b"foundry_ray" in data
    assert b".py" not in data


def test_the_hash_of_a_graph_ignores_weights_and_sees_shapes_and_storage(images, schema):
    first, other = built(images), built(images)
    nn.init.normal_(other.head.weight)
    wider = built(images, width=16)
    assert graph_sha256(to_onnx(first, schema)) == graph_sha256(to_onnx(other, schema))
    assert graph_sha256(to_onnx(first, schema)) != graph_sha256(to_onnx(wider, schema))


def test_a_refusal_to_write_names_the_operator(schema):
    from foundry_ray.compression.export import _written
    from foundry_ray.compression.tracing import folded

    traced = folded(Gelu())
    assert traced is not None
    with pytest.raises(Unsupported, match="gelu"):
        _written(traced, schema)


class Named(nn.Module):
    """Its input and its layers are called as the file calls what goes in and comes out."""

    def __init__(self):
        super().__init__()
        self.logits, self.last = nn.Linear(256, 8), nn.Linear(8, 4)

    def forward(self, pixels):
        return self.last(torch.relu(self.logits(pixels.flatten(1) / 255)))


@pytest.mark.parametrize("bits", [32, 8])
def test_a_model_may_call_its_own_tensors_as_the_file_calls_its_input_and_its_result(bits, images, schema):
    model = Named().eval()
    assert is_traced(onnx.load_model_from_string(to_onnx(model, schema)).graph)
    check_export(model, to_onnx(model, schema), images[:8])
    stored = served(model, recipe_from_params({"weight_bits": bits})[1], schema, images[:32])
    with torch.no_grad():
        expected = model(torch.from_numpy(images[:8]).float()).numpy()
    assert np.abs(open_runtime(stored).run(images[:8]) - expected).max() < 0.05 * np.ptp(expected)
