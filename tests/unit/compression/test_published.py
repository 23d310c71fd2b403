"""What is published of a student for others: a file that needs onnxruntime alone, a second one for torch, and a card that says what it is."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray.artifacts import manifests
from foundry_ray.compression import Options, compress
from foundry_ray.compression.torch_program import check_torch_program, pickles, to_torch_program
from foundry_ray.config import CardConfig, ExportConfig, TrainConfig
from foundry_ray.errors import ParityFailed, RecipeInfeasible
from foundry_ray.inference import predict
from foundry_ray.protocols import Given

from .architectures import inputs_of, made

_ALONE = """
import sys
sys.modules.update(dict.fromkeys(("foundry_ray", "torch", "ray", "onnx", "pydantic")))
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
np.save("logits.npy", session.run(None, {session.get_inputs()[0].name: np.load("rows.npy")})[0])
"""
STATED = CardConfig(license="Apache-2.0", data_license="CC-BY-4.0", contact="ann@example.org", intended_use="corners", limits="blind to colours")


@pytest.fixture
def shipped(trained, images, memory_store, clock, reporter):
    def ship(model=None, recipe=None, data=None, **export):
        return compress(
            model or trained,
            recipe or {"prune_ratio": 0.4, "weight_bits": 8},
            data or (images, np.arange(256) % 4),
            fit=lambda work: work.model,
            train=TrainConfig(),
            store=memory_store,
            clock=clock,
            reporter=reporter,
            options=Options(device="cpu", export=ExportConfig(**export)),
        )

    return ship


def tokens(schema):
    return Given(schema=schema, task="text_classification", inputs_N=inputs_of(schema, 64).numpy(), labels_N=np.arange(64) % 4)


@pytest.mark.parametrize("kind", ["images", "tokens"])
def test_a_published_file_answers_the_same_bits_where_neither_this_package_nor_torch_can_be_imported(kind, shipped, images, memory_store, tmp_path):
    model, schema = made("fused")
    artifact = shipped() if kind == "images" else shipped(model, {"weight_bits": 8}, tokens(schema))
    rows = images[:8] if kind == "images" else tokens(schema).inputs_N[:8]
    (tmp_path / "model.onnx").write_bytes(manifests.read_file(memory_store, artifact.artifact.key, "model.onnx"))
    np.save(tmp_path / "rows.npy", rows)
    done = subprocess.run([sys.executable, "-I", "-c", _ALONE], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), predict(memory_store, artifact, rows))


def test_a_card_is_published_that_says_task_data_metrics_steps_sizes_latency_limits_and_licence(shipped, images, memory_store):
    artifact = shipped(card=STATED)
    text = manifests.read_file(memory_store, artifact.artifact.key, "MODEL_CARD.md").decode()
    served = len(manifests.read_file(memory_store, artifact.artifact.key, "model.onnx"))
    for said in (
        "# resnet, image_classification\n",
        "It tells 4 classes apart: 0, 1, 2, 3.",
        "raw pixels (channels x height x width: 1 x 16 x 16, uint8, 0 to 255) and normalises them itself",
        "Intended use: corners.",
        "rows: train 230, val 26.",
        "| accuracy | ",
        "1. prune: whole channels, heads or layers removed (",
        "2. quantize: numbers stored in fewer bits (bits 8)",
        "- as given: ",
        "- quantize: ",
        f"| parameters | {artifact.num_params:,} |",
        f"| `model.onnx` | {served:,} bytes |",
        "1 thread(s), batch 1, n ",
        "- logits bit-equal in a fresh process",
        "- blind to colours",
        "- Of the model: Apache-2.0",
        "- Of the data: CC-BY-4.0",
        "onnxruntime.InferenceSession(",
    ):
        assert said in text


def test_what_nobody_states_is_said_to_be_not_stated(shipped, memory_store):
    text = manifests.read_file(memory_store, shipped().artifact.key, "MODEL_CARD.md").decode()
    assert "- Of the model: not stated" in text
    assert "Intended use: not stated." in text


def test_a_torch_program_is_published_where_it_is_asked_for_and_answers_as_the_model_does(shipped, images, memory_store):
    assert "model.pt2" not in manifests.load_manifest(memory_store, shipped().artifact.key).files
    artifact = shipped(torch_program=True)
    program = torch.export.load(io.BytesIO(manifests.read_file(memory_store, artifact.artifact.key, "model.pt2")))
    with torch.no_grad():
        logits = program.module()(torch.from_numpy(images)).numpy()
    assert (logits.argmax(1) == predict(memory_store, artifact, images).argmax(1)).mean() > 0.95
    assert any(note.startswith("model.pt2 differs from the model by ") for note in artifact.notes)


def test_a_torch_program_holds_json_and_bytes_of_tensors_and_no_path(trained, schema, monkeypatch):
    data = to_torch_program(trained, schema)
    assert data == to_torch_program(trained, schema)
    assert pickles(data) == ()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    assert sum(len(content) for name, content in contents.items() if "/weights/weight_" in name) >= sum(p.numel() * 4 for p in trained.parameters())
    assert not any(str(Path(__file__).parents[3]).encode() in content for content in contents.values())

    def refuse(*_args, **_kwargs):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    torch.export.load(io.BytesIO(data))


def test_a_pickle_in_a_torch_program_is_found(trained, schema):
    program = torch.export.export(trained, (torch.zeros(2, *schema.shape),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    assert pickles(buffer.getvalue()) == ("archive/data/sample_inputs/model.pt",)


def test_a_torch_program_of_other_weights_is_refused(trained, images, schema):
    data = to_torch_program(trained, schema)
    with torch.no_grad():
        trained.head.weight.mul_(1.01)
    with pytest.raises(ParityFailed, match=r"model.pt2 of torch.export differs from the model by"):
        check_torch_program(trained, data, images[:8])


def test_a_model_that_torch_cannot_export_is_refused_with_the_reason(schema):
    class Choosy(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(256, 4)

        def forward(self, pixels):
            return self.head(pixels.flatten(1)) if pixels.sum() > 0 else self.head(pixels.flatten(1) + 1)

    with pytest.raises(RecipeInfeasible, match=r"export: torch.export cannot take Choosy: ") as caught:
        to_torch_program(Choosy(), schema)
    assert "export.torch_program: false" in caught.value.hint
