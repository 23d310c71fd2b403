"""The runtime: what it takes, what it refuses, what it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from foundry_ray import inference
from foundry_ray.errors import BadRecord, ConfigError


def doubled(*, height: int = 4, op_type: str = "Flatten") -> bytes:
    """A file whose logits are the pixels of a one-channel image."""
    nodes = [helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT), helper.make_node(op_type, ["x"], ["logits"])]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 1, height, 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2 * height])
    graph = helper.make_graph(nodes, "model", [pixels], [logits])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def test_a_runtime_answers_with_float32_logits():
    runtime = inference.open_runtime(doubled())
    logits = runtime.run(np.arange(16, dtype=np.uint8).reshape(2, 1, 4, 2))
    assert (runtime.name, runtime.device, runtime.input_shape) == ("onnxruntime", "cpu", (1, 4, 2))
    assert logits.dtype == np.float32
    assert logits.tolist() == [[float(value) for value in range(8)], [float(value) for value in range(8, 16)]]


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((1, 1, 4, 2), dtype=np.float32), "float32 of shape (1, 1, 4, 2)"),
        (np.zeros((1, 1, 2, 4), dtype=np.uint8), "uint8 of shape (1, 1, 2, 4)"),
        (np.zeros((1, 4, 2), dtype=np.uint8), "uint8 of shape (1, 4, 2)"),
    ],
)
def test_an_input_of_another_form_is_refused_with_what_is_wanted(images, got):
    with pytest.raises(BadRecord) as caught:
        inference.open_runtime(doubled()).run(images)
    assert caught.value.message == f"the input is {got}, wanted uint8 of shape (N, 1, 4, 2)."
    assert "raw pixels 0..255" in caught.value.hint


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(BadRecord, match="onnxruntime cannot load 7 bytes"):
        inference.open_runtime(b"garbage")


def test_an_unknown_runtime_and_a_device_that_is_not_there_are_refused():
    with pytest.raises(ConfigError, match="there is no runtime 'abacus', wanted one of onnxruntime"):
        inference.open_runtime(doubled(), runtime="abacus")
    with pytest.raises(ConfigError, match="device is 'cuda', but this onnxruntime has only"):
        inference.open_runtime(doubled(), device="cuda")


def test_auto_takes_the_cpu_where_there_is_no_gpu():
    assert inference.open_runtime(doubled(), device="auto").device == "cpu"


def test_any_number_of_rows_runs_in_bounded_batches():
    sizes = []

    class Counting:
        def run(self, images):
            sizes.append(len(images))
            return images.reshape(len(images), -1).astype(np.float32)

    rows = np.arange(7 * 8, dtype=np.uint8).reshape(7, 1, 4, 2)
    logits = inference.run_batched(Counting(), rows, batch_rows=3)
    assert sizes == [3, 3, 1]
    assert np.array_equal(logits, rows.reshape(7, -1))
    assert inference.run_batched(inference.open_runtime(doubled()), rows[:0]).shape == (0, 8)


def test_the_hash_of_a_graph_sees_shapes_and_operators():
    hashes = {inference.graph_sha256(data) for data in (doubled(), doubled(height=5), doubled(op_type="Identity"))}
    assert len(hashes) == 3
    assert inference.graph_sha256(doubled()) in hashes


def test_the_cpu_has_a_name():
    assert inference.cpu_name().endswith(")")
    assert inference.runtime_version().count(".") >= 1
