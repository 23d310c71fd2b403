"""Which steps go together: every pair and all at once, every way to learn beside every way to act in training; what does not go says why."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from foundry_ray import models, tasks
from foundry_ray.compression import aids, apply_recipe, distillation, recipe_from_params, served, source_of, steps
from foundry_ray.config import ModelConfig, TrainConfig
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.inference import open_runtime, run_batched
from foundry_ray.protocols import Given
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.types import ImageSchema, Scalar, TokenSchema

IMAGES = ImageSchema(channels=1, height=8, width=8, dtype="uint8", classes=("a", "b", "c"))
TOKENS = TokenSchema(length=6, vocab_size=40, has_labels=True, classes=("a", "b", "c"))
ROWS = 24
ASKED: Mapping[str, Mapping[str, Scalar]] = {
    "trim_vocabulary": {"trim_vocabulary.min_count": 1},
    "shrink": {"width": 8, "depth": 1},
    "factorize": {"factorize.embedding_ratio": 0.5},
    "prune": {"prune.ratio": 0.3},
    "sparsify": {"sparsify.ratio": 0.5, "sparsify.whole_ends": False},
    "distil": {"distil_alpha": 0.5},
    "quantize": {"weight_bits": 8},
    "runtime": {"runtime_threads": 1},
}
FOR_TOKENS = ("trim_vocabulary", "factorize")
LEARNT: Mapping[str, Mapping[str, Scalar]] = {
    "online": {"distil_alpha": 0.5, "distil.source": "online"},
    "features": {"distil_alpha": 0.5, "distil.kind": "features"},
    "attention": {"distil_alpha": 0.0, "distil.kind": "attention", "distil.beta": 10},
    "average": {"distil_alpha": 0.5, "distil.kind": "self"},
    "born again": {"distil_alpha": 0.5, "distil.kind": "self", "distil.source": "online", "distil.init": "scratch"},
    "none of labels": {"distil_alpha": 1.0, "distil.kind": "none-of-labels"},
    "scratch": {"distil_alpha": 0.5, "distil.init": "scratch"},
}
ACTED: Mapping[str, Mapping[str, Scalar]] = {
    "recovery": {"prune.ratio": 0.3},
    "mask": {"sparsify.ratio": 0.5},
    "2:4": {"sparsify.pattern": "2:4", "sparsify.begin": 0.3},
    "qat": {"weight_bits": 8, "quantize.qat": True, "quantize.qat_from": 0.0},
    "mask and qat": {"sparsify.ratio": 0.5, "weight_bits": 8, "quantize.qat": True},
}


def given_rows(schema: ImageSchema | TokenSchema) -> Given:
    drawn = np.random.default_rng(0)
    shape = (ROWS, *schema.shape)
    inputs_N = drawn.integers(0, 256, shape).astype(np.uint8) if schema.kind == "images" else drawn.integers(4, 24, shape).astype(np.int64)
    task = "image_classification" if schema.kind == "images" else "text_classification"
    return Given(schema=schema, task=task, inputs_N=inputs_N, labels_N=np.arange(ROWS) % 3, seed=1)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return models.build(ModelConfig(family="resnet", width=16, depth=1), IMAGES, None, seed=0).eval()


@pytest.fixture(scope="module")
def transformer() -> nn.Module:
    return models.build(ModelConfig(family="transformer", width=16, depth=2), TOKENS, None, seed=0).eval()


def carry_out(teacher: nn.Module, params: Mapping[str, Scalar], given: Given) -> None:
    """Apply, train two steps, and run the file; what was measured before the training must hold after it."""
    recipe = recipe_from_params(params)[1]
    assert given.inputs_N is not None
    student = apply_recipe(teacher, recipe, given, family=str(teacher.family))
    before = served(student, recipe, given.schema, given.inputs_N, given=given)
    split = TensorSplit(inputs_N=torch.from_numpy(given.inputs_N), labels_N=torch.from_numpy(given.labels_N))
    step, answers = recipe.step("distil"), torch.randn(1, ROWS, 3).half()
    teachers = [models.rebuild(models.describe(teacher))] if source_of(step) == "online" else []
    job = FitJob(
        train=TrainConfig(epochs=1, batch_size=12, lr=1e-3, precision="fp32", ema_decay=0.5),
        task=tasks.get(given.task),
        split_train=split,
        split_val=split,
        distil=distillation(step, logits_VNC=answers, teachers=teachers),
        aids=aids(recipe, given),
    )
    loop = Loop(job, TorchEngine(student, job.train), reporter=RecordingReporter(), clock=FakeClock())
    assert np.isfinite(loop.run_epoch()["loss"])
    shipped = loop.eval_model()
    onnx = served(shipped, recipe, given.schema, given.inputs_N, given=given)
    logits_NC = run_batched(open_runtime(onnx), given.inputs_N)
    assert logits_NC.shape == (ROWS, 3)
    assert np.isfinite(logits_NC).all()
    assert abs(len(onnx) - len(before)) <= 0.02 * len(before)
    if recipe.step("sparsify"):
        assert any(float((param == 0).double().mean()) >= 0.49 for param in shipped.parameters() if param.ndim > 1)


def test_every_kind_is_asked_for_here() -> None:
    assert set(steps.names()) == set(ASKED)


@pytest.mark.parametrize("kinds", [*itertools.combinations(ASKED, 1), *itertools.combinations(ASKED, 2), tuple(ASKED)], ids="+".join)
def test_steps_of_models_of_tokens_go_together(transformer: nn.Module, kinds: tuple[str, ...]) -> None:
    carry_out(transformer, {name: value for kind in kinds for name, value in ASKED[kind].items()}, given_rows(TOKENS))


@pytest.mark.parametrize(
    "kinds",
    [kinds for num in range(1, 6) for kinds in itertools.combinations([kind for kind in ASKED if kind not in (*FOR_TOKENS, "runtime")], num)],
    ids="+".join,
)
def test_steps_of_models_of_images_go_together(resnet: nn.Module, kinds: tuple[str, ...]) -> None:
    carry_out(resnet, {name: value for kind in kinds for name, value in ASKED[kind].items()}, given_rows(IMAGES))


@pytest.mark.parametrize("kind", FOR_TOKENS)
def test_what_is_for_tokens_is_refused_for_images(resnet: nn.Module, kind: str) -> None:
    with pytest.raises(RecipeInfeasible, match=kind):
        carry_out(resnet, ASKED[kind], given_rows(IMAGES))


@pytest.mark.parametrize("acted", ACTED)
@pytest.mark.parametrize("learnt", LEARNT)
def test_whatever_acts_in_training_goes_with_whatever_is_learnt(resnet: nn.Module, learnt: str, acted: str) -> None:
    params = {**LEARNT[learnt], **ACTED[acted]}
    if (learnt, acted) == ("born again", "recovery"):
        with pytest.raises(RecipeInfeasible, match="has its teacher's size, and prune makes it another's"):
            carry_out(resnet, params, given_rows(IMAGES))
        return
    carry_out(resnet, params, given_rows(IMAGES))


@pytest.mark.parametrize("learnt", ["features", "attention"])
def test_layers_of_a_transformer_are_compared_while_int8_is_simulated(transformer: nn.Module, learnt: str) -> None:
    carry_out(transformer, {**LEARNT[learnt], **ASKED["sparsify"], **ASKED["factorize"]}, given_rows(TOKENS))
