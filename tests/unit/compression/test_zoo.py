"""Any architecture goes prune -> quantize -> export -> parity in onnxruntime through `compress`, or is refused with the reason."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foundry_ray.artifacts import manifests
from foundry_ray.compression import Options, compress, cost, recipe_from_params, served
from foundry_ray.compression.apply import apply_recipe
from foundry_ray.compression.recurrent_cuts import RECURRENT
from foundry_ray.compression.tracing import blank
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.inference import load_served, open_runtime, predict
from foundry_ray.models import tensors_from_bytes
from foundry_ray.protocols import Given
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import MemoryStore

from .architectures import IMAGES, inputs_of, made
from .zoo import ZOO

FAST = ("concatenated", "fused", "gru", "only a head")
REFUSED = {
    "only a head": "no channels of OnlyHead can be taken out: head: they are the model's outputs",
    "gpt2": "prune: the graph of Transformer cannot be followed",
    "pre-norm": "export: the number of rows is fixed in the forward pass of PreNorm",
    "stacked": "export: the number of rows is fixed in the forward pass of Stacked",
    "t5": "export: torch cannot write Transformer as ONNX: Cannot view a tensor",
}
TRACED = ("concatenated", "fused", "gru", "inverted", "excited", "reused", "grouped", "gated", "lstm, two layers")
SCHEMES = (
    {},
    {"weight_bits": 8},
    {"weight_bits": 8, "quantize.scheme": "dynamic"},
    {"weight_bits": 8, "quantize.scheme": "weight_only"},
    {"weight_bits": 4},
    {"weight_bits": 16},
)


def rows(schema, num_rows: int = 48, seed: int = 0) -> Given:
    inputs_N = inputs_of(schema, num_rows).numpy().astype("uint8" if schema is IMAGES else "int64")
    task = "image_classification" if schema is IMAGES else "text_classification"
    return Given(schema=schema, task=task, inputs_N=inputs_N, labels_N=np.arange(num_rows) % 4, seed=seed)


def multiplied(model, schema) -> int:
    """Multiply-accumulates of one sample as torch counts them, which knows no recurrent layers."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(blank(model, schema))
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return counter.get_total_flops() // 2


def check_goes_through(name: str) -> None:
    model, schema = made(name, ZOO)
    before, given_rows, store, reporter = cost(model, schema), rows(schema), MemoryStore(), RecordingReporter()
    students = []

    def untrained(work):
        students.append((work.model, cost(work.model, schema)))
        return work.model

    artifact = compress(
        model,
        {"prune_ratio": 0.5, "weight_bits": 8},
        given_rows,
        fit=untrained,
        store=store,
        options=Options(device="cpu", calibration_rows=32, latency_s=0),
        reporter=reporter,
        clock=FakeClock(),
    )
    [(student, counted)] = students
    assert (artifact.num_params, artifact.num_macs) == counted
    assert counted.num_params == sum(parameter.numel() for parameter in student.parameters()) < before.num_params
    assert counted.num_macs <= before.num_macs
    if not any(isinstance(module, RECURRENT) for module in student.modules()):
        assert counted.num_macs == multiplied(student, schema)
    assert artifact.size_bytes == len(load_served(store, artifact))
    tensors = tensors_from_bytes(manifests.read_file(store, artifact.artifact.key, "model.safetensors"))
    assert all(torch.equal(tensors[key], tensor) for key, tensor in student.state_dict().items() if key in tensors)
    logits = predict(store, artifact, given_rows.inputs_N)
    assert logits.shape == (48, 4)
    assert np.isfinite(logits).all()
    assert any(note.startswith("fp32 ONNX differs from torch by ") for note in artifact.notes)
    assert any(note.startswith("int8 agrees with fp32 on ") for note in artifact.notes)
    assert "logits bit-equal in a fresh process" in artifact.notes


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ZOO])
def test_an_architecture_is_pruned_quantized_exported_and_proven_or_refused_with_the_reason(name):
    assert len(ZOO) >= 30
    if name in REFUSED:
        with pytest.raises(RecipeInfeasible, match=REFUSED[name]) as caught:
            check_goes_through(name)
        assert caught.value.hint
    else:
        check_goes_through(name)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(TRACED),
    ratio=st.floats(0.1, 0.9),
    round_to=st.sampled_from((1, 4, 8)),
    scheme=st.sampled_from(SCHEMES),
    seed=st.integers(0, 99),
)
def test_whatever_is_asked_answers_are_finite_and_sizes_are_as_counted(name, ratio, round_to, scheme, seed):
    model, schema = made(name, ZOO)
    given_rows = rows(schema, seed=seed)
    recipe = recipe_from_params({"prune.ratio": ratio, "prune.round_to": round_to, **scheme})[1]
    with contextlib.suppress(RecipeInfeasible):
        student = apply_recipe(model, recipe, given_rows, family=type(model).__name__).eval()
        onnx = served(student, recipe, schema, given_rows.inputs_N[:16], given=given_rows)
        check_student(model, student, recipe, onnx, given_rows)


def check_student(model, student, recipe, onnx, given_rows) -> None:
    schema = given_rows.schema
    counted, before = cost(student, schema), cost(model, schema)
    assert counted.num_params == sum(parameter.numel() for parameter in student.parameters()) <= before.num_params
    assert counted.num_macs <= before.num_macs
    if not any(isinstance(module, RECURRENT) for module in student.modules()):
        assert counted.num_macs == multiplied(student, schema)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(0.9)
    assert len(served(student, recipe, schema, given_rows.inputs_N[:16], given=given_rows)) == len(onnx)
    logits = open_runtime(onnx).run(given_rows.inputs_N)
    assert np.isfinite(logits).all()
