"""Other runtimes than onnxruntime: the same file gives the same answers, and what cannot run here says why."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from foundry_ray import inference
from foundry_ray.compression import quantize_onnx
from foundry_ray.errors import ArtifactCorrupt, BadRecord, ConfigError
from foundry_ray.inference import openvino
from foundry_ray.protocols import RuntimeChoice

from .test_predicting import META, published
from .test_runtime import doubled

ROWS = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)


def convolutional() -> bytes:
    """Two convolutions, a pool over everything and a classifier, with weights drawn from a seed."""
    random = np.random.default_rng(1)
    weights = {"w1": (8, 1, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "b2": (16,), "w3": (4, 16), "b3": (4,)}
    tensors = [numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name) for name, shape in weights.items()]
    tensors.append(numpy_helper.from_array(np.float32(255.0), "white"))
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["x", "white"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], transB=1),
    ]
    return _file(nodes, ("pixels", TensorProto.UINT8, ["batch", 1, 8, 8]), 4, tensors)


def embedding(length: int | str = 5) -> bytes:
    """The mean of a vector per token, over a vocabulary of 7."""
    table = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "tokens"], ["e"]), helper.make_node("ReduceMean", ["e", "axes"], ["logits"], keepdims=0)]
    tensors = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")]
    return _file(nodes, ("tokens", TensorProto.INT64, ["batch", length]), 3, tensors)


def _file(nodes, source, num_classes, tensors) -> bytes:
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", num_classes])
    graph = helper.make_graph(nodes, "model", [helper.make_tensor_value_info(*source)], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def differences(onnx: bytes, rows: np.ndarray, **options: str) -> float:
    """Largest difference between openvino and onnxruntime, as a share of the range of the logits."""
    expected = inference.open_runtime(onnx).run(rows)
    return float(np.abs(inference.open_runtime(onnx, runtime="openvino", **options).run(rows) - expected).max() / np.ptp(expected))


def test_openvino_answers_as_onnxruntime_does():
    runtime = inference.open_runtime(convolutional(), runtime="openvino")
    assert (runtime.name, runtime.device, runtime.input_dtype, runtime.input_shape) == ("openvino", "cpu", "uint8", (1, 8, 8))
    assert runtime.run(ROWS).dtype == np.float32
    assert differences(convolutional(), ROWS) < 1e-5, "fp32 is fp32, also where the CPU has bf16"


def test_openvino_keeps_the_integers_of_an_int8_file():
    quantized = quantize_onnx(convolutional(), ROWS)
    assert 0 < differences(quantized, ROWS) < 0.02, "rounding at a step of a grid, and no more"
    alike = [inference.open_runtime(quantized, runtime=name).run(ROWS).argmax(axis=1) for name in ("onnxruntime", "openvino")]
    assert (alike[0] == alike[1]).mean() > 0.95


def test_bf16_is_a_choice_that_shows():
    try:
        inference.check_runtime("openvino", "bf16")
    except ConfigError as error:
        pytest.skip(error.message)
    assert 1e-4 < differences(convolutional(), ROWS, precision="bf16") < 0.05


def test_token_ids_run_in_both_and_are_checked_in_both():
    tokens = np.random.default_rng(3).integers(0, 7, (9, 5))
    assert differences(embedding(), tokens) < 1e-5
    for name in ("onnxruntime", "openvino"):
        runtime = inference.open_runtime(embedding(), runtime=name)
        assert (runtime.input_dtype, runtime.input_shape) == ("int64", (5,))
        with pytest.raises(BadRecord, match=r"the input is int64 of shape \(9, 4\), wanted int64 of shape \(N, 5\)"):
            runtime.run(tokens[:, :4])
        with pytest.raises(BadRecord, match="the input is float64"):
            runtime.run(tokens.astype(float))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_file_whose_rows_have_no_fixed_size_is_refused(name):
    with pytest.raises(BadRecord, match=r"input tokens has the shape .*, wanted no free size but the first"):
        inference.open_runtime(embedding("length"), runtime=name)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_any_array_of_the_right_form_runs(name):
    runtime = inference.open_runtime(convolutional(), runtime=name)
    expected = runtime.run(ROWS[:3])
    frozen = ROWS[:3].copy()
    frozen.flags.writeable = False
    assert np.array_equal(runtime.run(frozen), expected)
    assert np.array_equal(runtime.run(np.asfortranarray(ROWS[:3])), expected)
    assert runtime.run(ROWS[:0]).shape == (0, 4)


def test_calls_from_several_threads_do_not_mix():
    runtime = inference.open_runtime(convolutional(), runtime="openvino")
    expected = runtime.run(ROWS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: runtime.run(ROWS[row : row + 1]), list(range(64)) * 4))
    assert all(np.allclose(logits[0], expected[index % 64], atol=1e-5) for index, logits in enumerate(found))


def test_an_answer_is_not_overwritten_by_the_next():
    runtime = inference.open_runtime(convolutional(), runtime="openvino")
    first = runtime.run(ROWS[:2])
    kept = first.copy()
    runtime.run(ROWS[2:4])
    assert np.array_equal(first, kept)


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(BadRecord, match="openvino cannot load 7 bytes"):
        inference.open_runtime(b"garbage", runtime="openvino")


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    openvino._core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match="runtime openvino needs the package openvino") as caught:
        inference.open_runtime(convolutional(), runtime="openvino")
    assert caught.value.hint == "pip install 'foundry-ray[openvino]'"
    with pytest.raises(ConfigError, match="not installed here"):
        inference.runtime_version("openvino")


def test_a_cpu_without_bf16_refuses_it(monkeypatch):
    class OldCpu:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "_core", OldCpu)
    with pytest.raises(ConfigError, match="this CPU has no bf16 products"):
        inference.check_runtime("openvino", "bf16")


def test_onnxruntime_has_no_bf16_and_openvino_no_gpu():
    with pytest.raises(ConfigError, match="runtime onnxruntime got precision bf16, wanted fp32"):
        inference.open_runtime(doubled(), precision="bf16")
    with pytest.raises(ConfigError, match="runtime openvino computes on the CPU"):
        inference.open_runtime(doubled(), runtime="openvino", device="cuda")


def test_tensorrt_is_refused_where_it_is_not_with_the_reason(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="needs onnxruntime with TensorrtExecutionProvider; the one here has only CPUExecutionProvider") as caught:
        inference.open_runtime(doubled(), runtime="tensorrt")
    assert "pip install onnxruntime-gpu tensorrt" in caught.value.hint


def test_tensorrt_that_onnxruntime_goes_on_without_is_refused(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["TensorrtExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr("foundry_ray.inference.tensorrt.open_session", _on_the_cpu)
    with pytest.raises(ConfigError, match="runtime tensorrt cannot be loaded here: onnxruntime went on with CPUExecutionProvider"):
        inference.open_runtime(doubled(), runtime="tensorrt")


def _on_the_cpu(onnx, providers, *, threads):
    from foundry_ray.inference.onnx_runtime import open_session

    assert providers[0] == ("TensorrtExecutionProvider", {"trt_bf16_enable": False})
    return open_session(onnx, ["CPUExecutionProvider"], threads=threads)


SHIPPED = RuntimeChoice(name="openvino", threads=2, precision="fp32")


def test_a_model_is_opened_in_the_runtime_that_it_ships_with(monkeypatch, memory_store):
    opened = []

    def spy(onnx, **options):
        opened.append(options)
        return inference.open_runtime(onnx, **options)

    monkeypatch.setattr("foundry_ray.inference.shipping.open_runtime", spy)
    model = published(memory_store, {**META, **inference.runtime_meta(SHIPPED)})
    logits = inference.predict(memory_store, model, np.arange(8, dtype=np.uint8).reshape(1, 1, 4, 2))
    assert logits.tolist() == [list(range(8))]
    inference.predict(memory_store, model, np.zeros((1, 1, 4, 2), dtype=np.uint8), threads=1)
    inference.predict(memory_store, published(memory_store, META), np.zeros((1, 1, 4, 2), dtype=np.uint8))
    assert opened == [
        {"threads": 2, "runtime": "openvino", "precision": "fp32"},
        {"threads": 1, "runtime": "openvino", "precision": "fp32"},
        {"threads": 1, "runtime": "onnxruntime", "precision": "fp32"},
    ]


def test_a_signature_holds_its_runtime_and_one_that_cannot_be_read_is_corrupt():
    assert inference.shipped_runtime(inference.runtime_meta(SHIPPED)) == SHIPPED
    assert inference.shipped_runtime({"classes": []}) == RuntimeChoice()
    with pytest.raises(ArtifactCorrupt, match="wanted a name, threads and a precision"):
        inference.shipped_runtime({"runtime": "openvino"})
