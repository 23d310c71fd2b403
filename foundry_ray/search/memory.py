"""How much memory training a student takes, before it is trained, and in which passes its batch goes through a slot that is small.

The estimate adds up what training keeps: weights, gradients, optimizer, average, and what autograd saves of the forward pass, which is read off
a pass over shapes alone. What torch allocates lies within 25 % of that (measured on convolutional students, fp32 and bf16, 2 to 256 rows); a
process grows by up to 1.7 of it, because kernels need scratch and heaps have holes, and that is allowed for where it must fit.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from foundry_ray.config import TrainConfig
from foundry_ray.training.failures import FailureKind, RankFailure
from foundry_ray.training.precision import resolve_precision
from foundry_ray.training.shape import Shape, halved

PROCESS_RATIO = 1.75
"""What a process takes, of what its tensors take."""

_CONTEXT_BYTES = 600_000_000
"""What CUDA and its libraries take of a GPU for one process, beside torch's allocator."""
_FP32_BYTES = 4
_SLOTS = {"adamw": 2, "sgd": 1, "lion": 1, "adafactor": 1}
_UNKNOWN_SLOTS = 2  # a user's own optimizer is taken for one like Adam
_FEW, _MORE = 2, 4  # rows: two counts tell what grows with a row, and batch norm refuses one
_TOKENS_DIM = 2
_LARGEST_AT_ONCE = 2  # the backward pass holds the gradient of what a layer gave and of what it took


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What the tensors of a training take.

    Attributes:
        state_bytes: Whatever the rows: weights, gradients, the optimizer's state, the average, weights in lower precision.
        row_bytes: Per row of a pass: what the backward pass needs of the forward pass, and its own largest tensors.
    """

    state_bytes: int
    row_bytes: int

    def bytes_of(self, micro_batch_size: int) -> int:
        """With so many rows in a pass."""
        return self.state_bytes + micro_batch_size * self.row_bytes


def footprint(model: nn.Module, train: TrainConfig, sample_shape: tuple[int, ...], *, device: str) -> Footprint | None:
    """What training `model` will take; nothing is computed, and the model is left as it was.

    Args:
        model: In train mode, with fp32 weights; takes floats of shape (rows, *sample_shape), or token ids where a sample has one dimension.
        train: Optimizer, precision, average.
        device: It will be trained on.

    Returns:
        None where the model cannot run without values: then nobody knows before it is tried.
    """
    dtype = resolve_precision(train.precision, device)
    weights = sum(param.numel() for param in model.parameters())
    trained = sum(param.numel() for param in model.parameters() if param.requires_grad)
    try:
        few, largest = _kept(model, (_FEW, *sample_shape), dtype)
        more, _ = _kept(model, (_MORE, *sample_shape), dtype)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # a user's model may do anything with tensors that have no values
        return None
    row_bytes = (more - few) // (_MORE - _FEW)
    copies = 1 + (train.ema_decay > 0)
    slots = 0 if train.optimizer == "sgd" and not train.momentum else _SLOTS.get(train.optimizer, _UNKNOWN_SLOTS)
    casts = 0 if dtype is torch.float32 else weights * dtype.itemsize
    state = _FP32_BYTES * (copies * weights + (1 + slots) * trained) + casts + max(0, few - _FEW * row_bytes)
    return Footprint(state_bytes=state, row_bytes=row_bytes + _LARGEST_AT_ONCE * largest // _FEW)


def beside(taken: Footprint, teacher: nn.Module, train: TrainConfig, sample_shape: tuple[int, ...], *, device: str, keeps: bool) -> Footprint | None:
    """With a teacher that answers in each step: its weights, which nothing trains, and what a pass without gradients holds at once.

    Args:
        taken: By the student alone.
        teacher: Left as it was.
        train: As the student's: the teacher answers in its precision.
        sample_shape: As `footprint`'s.
        device: It answers there.
        keeps: What its layers give is kept until it was compared with the student's.

    Returns:
        None where the teacher cannot run without values.
    """
    dtype, was_training = resolve_precision(train.precision, device), teacher.training
    state = {name: _without_values(tensor, dtype) for name, tensor in [*teacher.named_parameters(), *teacher.named_buffers()]}
    try:
        with _largest_output(teacher.eval(), only_leaves=keeps) as outputs, torch.no_grad(), torch.random.fork_rng(devices=[]):
            functional_call(teacher, state, (_blank_rows((_FEW, *sample_shape), dtype),))
    except (RuntimeError, TypeError, ValueError, AttributeError):  # as in `footprint`
        return None
    finally:
        teacher.train(was_training)
    held = sum(outputs) if keeps else _LARGEST_AT_ONCE * max(outputs, default=0)
    weights = sum(tensor.numel() for tensor in state.values())
    return Footprint(state_bytes=taken.state_bytes + _FP32_BYTES * weights, row_bytes=taken.row_bytes + held // _FEW)


def fitting(taken: Footprint, shape: Shape, room_bytes: int) -> Shape | None:
    """The same batch in the largest passes that fit into so much memory; None where not even one row does."""
    smaller: Shape | None = shape
    while smaller is not None and PROCESS_RATIO * taken.bytes_of(smaller.micro_batch_size) > room_bytes:
        smaller = halved(smaller)
    return smaller


def gpu_room_bytes(device: str, share: float) -> int:
    """What a slot has that gets this share of a GPU, besides CUDA's own; from here on torch gives this process no more than that."""
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    room_bytes = max(0, int(min(1.0, share) * total_bytes) - _CONTEXT_BYTES)
    torch.cuda.set_per_process_memory_fraction(room_bytes / total_bytes, device)
    return room_bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this says that the device or the process had no memory left."""
    text = f"{type(error).__name__}: {error}"
    return RankFailure(rank=0, kind=FailureKind.CRASHED, text=text).is_out_of_memory


def give_back() -> None:
    """After an error: the frames that it went through are held in a circle, and hold the weights."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing where there is no GPU


def _kept(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that autograd saves of one pass in this number format, besides weights, and those of the largest output of a module."""
    state = {name: _without_values(tensor, dtype) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    weights = {tensor.untyped_storage()._cdata for tensor in state.values()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in weights:
            saved[place] = tensor  # held, so that no other tensor gets its place
        return tensor

    with _largest_output(model) as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.random.fork_rng(devices=[]):
        functional_call(model, state, (_blank_rows(shape, dtype),))
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()), max(largest, default=0)


def _blank_rows(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, device="meta", dtype=torch.int64 if len(shape) == _TOKENS_DIM else dtype)


def _without_values(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", dtype=dtype if tensor.is_floating_point() else tensor.dtype)
    return empty.requires_grad_(tensor.requires_grad)


@contextmanager
def _largest_output(model: nn.Module, *, only_leaves: bool = False) -> Iterator[list[int]]:
    """Bytes of what each module gives, as they run; of those that hold others, not where only the leaves are wanted."""
    found: list[int] = []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        found.append(output.nbytes if isinstance(output, Tensor) else 0)

    handles = [module.register_forward_hook(note) for module in model.modules() if not (only_leaves and [*module.children()])]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
