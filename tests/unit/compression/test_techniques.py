"""The table of techniques: what is counted in a file is what the cost model says, and what is claimed and shown follows from the rows."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmarks import compress_rows
from benchmarks.compress_counts import counted, weight_bytes
from benchmarks.compress_families import AS_GIVEN, PRUNED
from benchmarks.compress_rows import Row
from foundry_ray import models
from foundry_ray.compression import cost, recipe_from_params, served, to_onnx
from foundry_ray.config import ModelConfig
from foundry_ray.types import ImageSchema, Scalar, TokenSchema

IMAGES = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b", "c"))
TOKENS = TokenSchema(length=12, vocab_size=100, has_labels=True, classes=("a", "b"))
GIVEN = Row(
    family="cnn",
    size="large",
    technique=AS_GIVEN,
    measured={"num_params": 600_000, "num_macs": 8_000_000, "size_bytes": 2_400_000, "weight_bytes": 2_390_000},
    predicted={"num_params": 600_000, "num_macs": 8_000_000, "size_bytes": 2_400_000},
    accuracy={"before": 0.9, "at_once": 0.9, "after": 0.9},
    latencies={"onnxruntime": {"1": [0.4, 0.5], "32": [9.0, 9.5]}, "openvino": {"1": [0.6, 0.7], "32": [8.0, 8.5]}},
)


def other(technique: str, *, family: str = "cnn", size: str = "large", divisor: int = 1, off: float = 1.0) -> Row:
    measured = {name: value // divisor for name, value in GIVEN.measured.items()}
    predicted = {name: int(value / off) for name, value in measured.items() if name != "weight_bytes"}
    return replace(GIVEN, technique=technique, family=family, size=size, measured=measured, predicted=predicted)


ROWS = (
    GIVEN,
    other(PRUNED, divisor=4),
    other("static int8", divisor=3, off=1.04),
    other("int8 weights", divisor=4),
    replace(GIVEN, technique="half of the heads", refused="there are none", measured={}, predicted={}, accuracy={}, latencies={}),
    other(AS_GIVEN, size="small"),
    other("static int8", size="small", divisor=2),
    other(AS_GIVEN, family="mlp"),
    other(PRUNED, family="mlp", divisor=2),
)


@pytest.mark.parametrize("family", ["cnn", "resnet", "mlp", "rnn", "transformer"])
def test_a_file_holds_the_parameters_and_products_that_the_cost_model_counts(family: str) -> None:
    schema = TOKENS if family in ("rnn", "transformer") else IMAGES
    model = models.build(ModelConfig(family=family, width=16, depth=2), schema, None, seed=0).eval()
    found, said = counted(to_onnx(model, schema)), cost(model, schema)
    assert found.num_macs == said.num_macs
    assert found.num_params == pytest.approx(said.num_params, rel=0.03)


@pytest.mark.parametrize(
    ("asks", "bits"), [({"weight_bits": 4}, 4), ({"weight_bits": 8, "quantize.scheme": "weight_only"}, 8), ({"weight_bits": 16}, 16)]
)
def test_weights_take_as_many_bits_as_they_are_stored_in(asks: dict[str, Scalar], bits: int) -> None:
    model = models.build(ModelConfig(family="mlp", width=256, depth=2), IMAGES, None, seed=0).eval()
    rows_N = np.zeros((4, 1, 8, 8), np.uint8)
    some, whole = (served(model, recipe_from_params(one)[1], IMAGES, rows_N) for one in (asks, {}))
    of_whole = weight_bytes(some) / weight_bytes(whole)
    assert bits / 32 <= of_whole < 1.3 * bits / 32


def test_the_smallest_ratio_and_the_largest_difference_are_claimed() -> None:
    values = {claim.name: claim.value for claim in compress_rows.claims(ROWS)}
    assert values["compress_int8_file_ratio"] == pytest.approx(3)
    assert values["compress_int8_weight_ratio"] == pytest.approx(2)
    assert values["compress_prune_macs_ratio"] == pytest.approx(4), "of an mlp no such ratio is claimed"
    assert values["compress_cost_difference"] == pytest.approx(0.04, rel=0.01)


def test_the_readme_shows_what_is_refused_with_its_reason_and_openvino_where_it_is_faster() -> None:
    shown = compress_rows.markdown({"runs": [asdict(row) for row in ROWS]})
    assert "| half of the heads | refused: there are none |" in shown
    assert "| 0.400 / 0.500 | 9.000 / 9.500; OpenVINO 8.000 / 8.500 | 0.9000, 0.9000, 0.9000 |" in shown
    assert "| cnn, static int8 | 300,000 | 1,195,000 | 2.00x | 0.9000 |" in shown
    assert {line.count("|") for line in shown.splitlines() if line.startswith("|")} == {6, 9}
