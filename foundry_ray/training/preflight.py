"""The model's last check before its first step: a pass of two rows in eval mode, which changes nothing.

Decides: whether what the model says fits what the task asks and what the labels are. A wrong model is told from wrong code by the module
that it happened in. Shapes: B rows, C classes, T tokens, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from foundry_ray.errors import ConfigError, FoundryError
from foundry_ray.protocols import Task
from foundry_ray.types import Schema, TokenSchema

if TYPE_CHECKING:
    from foundry_ray.training.feed import Batch

_ROWS = 2
_HINT = "mend the model that `teacher.model.family` names."


def preflight(model: nn.Module, task: Task, schema: Schema, batch: Batch) -> None:
    """Refuse a model that could not take the first step, or that would learn something else than was asked.

    Args:
        model: On the device of the batch; its mode, weights and buffers stay as they are.
        task: Gives the loss.
        schema: Of the data set: how many classes or tokens there are.
        batch: As training will have it; its first two rows are used.

    Raises:
        ConfigError: Nothing in the model learns, its forward pass fails, its outputs are of another type or shape than the labels need, or
            they are not finite; it names the module.
    """
    name = type(model).__name__
    if not any(param.requires_grad for param in model.parameters()):
        raise ConfigError(f"{name} has no parameter that learns, wanted at least one with requires_grad.", hint=_HINT)
    inputs, labels_B = batch.inputs[:_ROWS], batch.labels_B[:_ROWS]
    _check_labels(labels_B, _num_answers(schema))
    with _watched(model) as watch, _evaluating(model):
        outputs = _outputs(model, inputs, watch)
        if type(task).__module__.startswith("foundry_ray."):  # another's task may want another shape, and its loss says so
            _check_shape(name, outputs, _wanted_shape(schema, len(inputs)))
        _check_values(name, outputs, watch)
        _check_loss(name, task, outputs, labels_B)


class _Watch:
    """Which modules a pass is in, and the first whose output was not finite."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.not_finite = ""

    def enter(self, name: str) -> None:
        self.inside.append(name)

    def leave(self, name: str, output: object) -> None:
        self.inside.pop()
        is_bad = isinstance(output, Tensor) and output.is_floating_point() and not bool(output.isfinite().all())
        if is_bad and not self.not_finite:
            self.not_finite = name


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Watch]:
    watch, handles = _Watch(), []
    for name, module in model.named_modules():
        place = f"{name or 'the model'} ({type(module).__name__})"
        handles.append(module.register_forward_pre_hook(lambda module, args, place=place: watch.enter(place)))
        handles.append(module.register_forward_hook(lambda module, args, output, place=place: watch.leave(place, output)))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, each module back in its own afterwards: batch norm's statistics stay, and dropout draws nothing."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _outputs(model: nn.Module, inputs: Tensor, watch: _Watch) -> Tensor:
    """What the model says. Its code is the user's and may raise anything, so all of it is caught and told."""
    try:
        outputs: object = model(inputs)
    except (FoundryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        where = watch.inside[-1] if watch.inside else type(model).__name__
        got = f"inputs of shape {tuple(inputs.shape)} ({_dtype(inputs)})"
        message = f"{type(model).__name__} fails in {where} on {got}: {type(error).__name__}: {error}; wanted outputs."
        raise ConfigError(message, hint=_HINT) from error
    if not isinstance(outputs, Tensor):
        message = f"{type(model).__name__} gives a {type(outputs).__name__}, wanted one tensor with a row per sample."
        raise ConfigError(message, hint="return the logits alone.")
    return outputs


def _check_labels(labels_B: Tensor, num_answers: int) -> None:
    if labels_B.is_floating_point() or labels_B.is_complex():
        return  # a task of numbers, whose loss says what it takes
    known = labels_B[labels_B >= 0]
    if known.numel() and int(known.max()) >= num_answers:
        message = f"the batch has the label {int(known.max())}, wanted one in 0..{num_answers - 1}."
        raise ConfigError(message, hint="correct the labels of `data.source`.")


def _check_shape(name: str, outputs: Tensor, wanted: Sequence[int]) -> None:
    got = tuple(outputs.shape)
    is_token = len(wanted) == 3
    fits = got[:-1] == tuple(wanted[:-1]) and (got[-1] >= wanted[-1] if is_token else got[-1] == wanted[-1])
    if not fits:
        last = f"at least {wanted[-1]}" if is_token else str(wanted[-1])
        shape = ", ".join([*map(str, wanted[:-1]), last])
        meaning = "rows, tokens, vocabulary" if is_token else "rows, classes"
        raise ConfigError(f"{name} gives outputs of shape {got}, wanted ({shape}): {meaning}.", hint=_HINT)


def _check_values(name: str, outputs: Tensor, watch: _Watch) -> None:
    if not outputs.is_floating_point():
        raise ConfigError(f"{name} gives outputs of {_dtype(outputs)}, wanted floating-point logits.", hint=_HINT)
    if not bool(outputs.isfinite().all()):
        where = watch.not_finite or name
        message = f"{name} gives outputs that are not finite before any training, wanted numbers; the first come from {where}."
        raise ConfigError(message, hint="look at how that module is initialised, and at what it divides by.")


def _check_loss(name: str, task: Task, outputs: Tensor, labels_B: Tensor) -> None:
    loss = task.loss(outputs.float(), labels_B)
    if loss.numel() != 1 or not bool(loss.isfinite()):
        got = f"a loss of shape {tuple(loss.shape)}" if loss.numel() != 1 else f"a loss of {float(loss)}"
        raise ConfigError(f"task {task.name} gives {got} for {name}, wanted one finite number.", hint="look at the task's `loss`.")
    if not loss.requires_grad:
        message = f"the loss does not depend on any parameter of {name} that learns, wanted a gradient."
        raise ConfigError(message, hint="look for `detach`, `no_grad` or frozen weights in the model.")


def _num_answers(schema: Schema) -> int:
    return len(schema.classes) or cast(TokenSchema, schema).vocab_size


def _wanted_shape(schema: Schema, num_rows: int) -> tuple[int, ...]:
    return (num_rows, *schema.label_shape, _num_answers(schema))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
