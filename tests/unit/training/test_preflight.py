"""A model that could not train is refused before its first step, with the module, what it gave and what was wanted."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from foundry_ray import tasks
from foundry_ray.errors import ConfigError
from foundry_ray.training.feed import Batch
from foundry_ray.training.preflight import preflight
from foundry_ray.types import ImageSchema, TokenSchema

SCHEMA = ImageSchema(channels=1, height=6, width=6, dtype="uint8", classes=("a", "b", "c"))


class _Tampered(nn.Module):
    """A classifier whose logits something happens to."""

    def __init__(self, change: Callable[[Tensor], object], num_outputs: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, num_outputs))
        self.change = change

    def forward(self, images_BCHW: Tensor) -> object:
        return self.change(self.body(images_BCHW))


def _batch() -> Batch:
    return Batch(inputs=torch.rand(4, 1, 6, 6), labels_B=torch.tensor([0, 2, 1, 1]))


def _refusal(model: nn.Module, batch: Batch | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        preflight(model, tasks.get("image_classification"), SCHEMA, batch or _batch())
    assert caught.value.hint
    return caught.value


def test_a_model_that_can_train_passes_and_stays_as_it_was(make_model: Callable[[], nn.Module]) -> None:
    model = make_model().train()
    model[3].eval()
    batch, before, random = _batch(), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    preflight(model, tasks.get("image_classification"), SCHEMA, batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (model.training, model[3].training) == (True, False)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(param.grad is None for param in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Tampered(lambda logits: logits, num_outputs=5), "_Tampered gives outputs of shape (2, 5), wanted (2, 3): rows, classes"),
        (_Tampered(lambda logits: logits[:, :, None]), "gives outputs of shape (2, 3, 1), wanted (2, 3)"),
        (_Tampered(lambda logits: logits.argmax(1, keepdim=True).expand(-1, 3)), "gives outputs of int64, wanted floating-point logits"),
        (_Tampered(lambda logits: (logits, logits)), "_Tampered gives a tuple, wanted one tensor"),
        (
            _Tampered(lambda logits: logits / 0),
            "are not finite before any training, wanted numbers; the first come from the model",
        ),
        (_Tampered(lambda logits: logits.detach()), "the loss does not depend on any parameter of _Tampered"),
        (_Tampered(lambda logits: logits).requires_grad_(False), "_Tampered has no parameter that learns"),
    ],
)
def test_outputs_that_the_labels_cannot_use_are_refused(model: nn.Module, message: str) -> None:
    assert message in _refusal(model).message


def test_a_forward_pass_that_fails_names_the_module_and_what_it_was_given() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Linear(35, 3)))
    message = _refusal(model).message
    assert "Sequential fails in 1.1 (Linear) on inputs of shape (2, 1, 6, 6) (float32): RuntimeError: mat1 and mat2" in message


def test_the_first_module_that_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[1].bias.fill_(float("inf"))
    assert "the first come from 1 (Linear)" in _refusal(model).message


def test_a_label_that_is_no_class_is_refused() -> None:
    batch = Batch(inputs=torch.rand(2, 1, 6, 6), labels_B=torch.tensor([0, 7]))
    assert "the batch has the label 7, wanted one in 0..2" in _refusal(_Tampered(lambda logits: logits), batch).message


def test_running_out_of_memory_is_no_mistake_of_the_model() -> None:
    def run_out(logits: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        preflight(_Tampered(run_out), tasks.get("image_classification"), SCHEMA, _batch())


def test_a_model_of_tokens_must_know_the_vocabulary_and_may_know_more() -> None:
    schema = TokenSchema(length=5, vocab_size=11)
    tokens = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0))
    batch = Batch(inputs=tokens, labels_B=tokens)
    task = tasks.get("causal_lm")
    preflight(nn.Sequential(nn.Embedding(16, 4), nn.Linear(4, 16)), task, schema, batch)
    with pytest.raises(ConfigError, match=re.escape("gives outputs of shape (2, 5, 10), wanted (2, 5, at least 11): rows, tokens, vocabulary")):
        preflight(nn.Sequential(nn.Embedding(16, 4), nn.Linear(4, 10)), task, schema, batch)
