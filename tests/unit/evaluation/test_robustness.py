"""Damaged and adversarial images: what is counted, and that attacks keep their promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray import tasks
from foundry_ray.config import AttackGate, CorruptionGate, GatesConfig
from foundry_ray.errors import ConfigError
from foundry_ray.evaluation import attacks
from foundry_ray.evaluation.corruptions import corrupt
from foundry_ray.evaluation.robustness import Subject, check_gates, robustness
from foundry_ray.inference import open_runtime
from foundry_ray.types import ImageSchema, TokenSchema

from .files import linear

TASK = tasks.get("image_classification")
ROWS = np.random.default_rng(0).integers(20, 236, (40, 1, 4, 4), dtype=np.uint8)
LABELS = ROWS.reshape(40, 8, 2).sum(axis=1, dtype=np.int64).argmax(axis=1)
FGSM = AttackGate(kind="fgsm", epsilon=6, min_accuracy=0.5)
PGD = AttackGate(kind="pgd", epsilon=6, steps=5, min_accuracy=0.5)


def torch_linear(factor: float) -> nn.Module:
    """The model whose file `linear(factor, side=4)` is, in units in which a softmax is not all or nothing."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    model[1].weight.data = torch.zeros(2, 16)
    model[1].weight.data[np.arange(16) % 2, np.arange(16)] = factor
    return model.eval()


def subject(factor: float = 0.01) -> Subject:
    return Subject(runtime=open_runtime(linear(factor, side=4)), load=lambda: torch_linear(factor))


@pytest.mark.parametrize("gate", [FGSM, PGD])
def test_an_attack_changes_no_pixel_by_more_than_epsilon_and_misleads(gate):
    changed = attacks.attacked(torch_linear(0.01), ROWS, LABELS, gate, num_classes=2)
    assert changed.dtype == np.uint8
    assert 1 <= np.abs(changed.astype(int) - ROWS).max() <= 6
    before, after = (TASK.correct(open_runtime(linear(0.01, side=4)).run(rows), LABELS).mean() for rows in (ROWS, changed))
    assert before == 1.0
    assert after < 0.9


def test_fgsm_on_a_linear_model_is_the_step_by_hand():
    changed = attacks.attacked(torch_linear(0.01), ROWS, LABELS, FGSM, num_classes=2)
    # Pixels of the label's own class grow darker, those of the other class lighter: w is positive for both.
    is_own = np.arange(16)[None] % 2 == LABELS[:, None]
    assert np.array_equal(changed.reshape(40, 16), ROWS.reshape(40, 16) + np.where(is_own, -6, 6))


def test_an_attack_is_the_same_again_and_leaves_the_global_generator_alone():
    np.random.seed(5)
    first = attacks.attacked(torch_linear(0.01), ROWS, LABELS, PGD, num_classes=2)
    drawn = np.random.random()
    np.random.seed(5)
    assert drawn == np.random.random()
    assert np.array_equal(first, attacks.attacked(torch_linear(0.01), ROWS, LABELS, PGD, num_classes=2))


def test_the_corrupted_accuracy_is_the_mean_over_kinds_and_severities():
    gate = CorruptionGate(kinds=("gaussian_noise", "contrast"), severities=(1, 5), min_accuracy=0.1)
    [found] = robustness(GatesConfig(corruptions=gate), [subject()], TASK, ROWS, LABELS)
    by_hand = {
        kind: np.mean([TASK.correct(subject().runtime.run(corrupt(ROWS, kind, severity)), LABELS).mean() for severity in (1, 5)])
        for kind in gate.kinds
    }
    assert {name: value.value for name, value in found.items()} == pytest.approx(
        {"corrupted_accuracy": np.mean(list(by_hand.values())), **{f"{kind}_accuracy": value for kind, value in by_hand.items()}}
    )
    assert found["corrupted_accuracy"].n == 40


def test_adversarial_images_of_each_model_are_judged_by_its_own_file():
    strong, weak = subject(0.01), Subject(runtime=open_runtime(linear(-0.01, side=4)), load=lambda: torch_linear(0.01))
    gates = GatesConfig(attacks=(FGSM,))
    found = robustness(gates, [strong, weak], TASK, ROWS, LABELS)
    assert found[0]["fgsm_6_accuracy"].value < 0.9
    assert found[1]["fgsm_6_accuracy"].value == pytest.approx(1 - found[0]["fgsm_6_accuracy"].value), "its file answers the other way round"


def test_what_no_gate_asks_for_is_not_measured():
    untouched = Subject(runtime=None, load=lambda: pytest.fail("loaded"))
    assert robustness(GatesConfig(), [untouched], TASK, ROWS, LABELS) == [{}]


def test_as_many_rows_as_asked_for_are_taken_from_the_whole_split():
    gate = CorruptionGate(kinds=("brightness",), severities=(1,), max_rows=10, min_accuracy=0.1)
    [found] = robustness(GatesConfig(corruptions=gate), [subject()], TASK, ROWS, LABELS)
    assert found["corrupted_accuracy"].n == 10


def test_gates_that_cannot_be_measured_are_refused_before_anything_starts(monkeypatch):
    tokens = TokenSchema(length=4, vocab_size=9, classes=("a", "b"))
    with pytest.raises(ConfigError, match=r"gates\.corruptions got .*wanted images"):
        check_gates(GatesConfig(corruptions=CorruptionGate(min_accuracy=0.5)), tokens)
    with pytest.raises(ConfigError, match=r"gates\.attacks got .*wanted images"):
        check_gates(GatesConfig(attacks=(FGSM,)), tokens)
    check_gates(GatesConfig(calibration_error=0.1, class_drop_points=1.0), tokens)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package adversarial-robustness-toolbox") as caught:
        check_gates(GatesConfig(attacks=(FGSM,)), ImageSchema(channels=1, height=4, width=4, dtype="uint8", classes=("a", "b")))
    assert caught.value.hint == "pip install 'foundry-ray[robustness]'"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "it has no limit"),
        ({"severities": (0,), "min_accuracy": 0.5}, "each must be 1 to 5"),
        ({"severities": (1, 5, 1), "min_accuracy": 0.5}, "severities are 1, 5, 1; name each once"),
        ({"kinds": ("contrast", "contrast"), "min_accuracy": 0.5}, "kinds are contrast, contrast; name each once"),
    ],
)
def test_a_gate_that_means_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CorruptionGate(**fields)


def test_attacks_that_contradict_themselves_or_each_other_are_refused():
    with pytest.raises(ValueError, match="kind is fgsm with steps 3; fgsm takes one step"):
        AttackGate(kind="fgsm", steps=3, min_accuracy=0.5)
    with pytest.raises(ValueError, match="attacks holds pgd_6_5 2 times; give one of them all its limits"):
        GatesConfig(attacks=(PGD, FGSM, AttackGate(kind="pgd", epsilon=6, steps=5, drop_points=1.0)))
