"""The estimate of a training's memory, against what torch allocates, and what is done where it does not fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from foundry_ray import models
from foundry_ray.config import ModelConfig, TrainConfig
from foundry_ray.search import memory
from foundry_ray.search.memory import Footprint, fitting, footprint
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.shape import Shape
from foundry_ray.types import ImageSchema, Preprocessing, TokenSchema

SCHEMA = ImageSchema(channels=1, height=16, width=16, dtype="uint8", classes=tuple("abcdefghij"))
ROWS = 32


def _model(width: int) -> nn.Module:
    return models.build(ModelConfig(width=width, depth=1), SCHEMA, Preprocessing(mean=(125.0,), std=(70.0,)), seed=0).train()


def _step(engine: TorchEngine) -> None:
    inputs, labels_B = torch.rand(ROWS, *SCHEMA.shape) * 255, torch.randint(0, 10, (ROWS,))
    engine.backward(nn.functional.cross_entropy(engine.forward(inputs), labels_B))
    engine.step(1e-3)


def _allocated_bytes(model: nn.Module, train: TrainConfig) -> int:
    """The most that torch's allocator gave out in one step, above what was there before."""
    engine = TorchEngine(model, train)
    _step(engine)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        _step(engine)
    total = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        total += event.nbytes() if event.name() == "[memory]" else 0
        most = max(most, total)
    return most


@pytest.mark.parametrize(("width", "precision"), [(8, "fp32"), (8, "bf16"), (32, "fp32")])
def test_what_torch_allocates_lies_within_a_quarter_of_the_estimate(width: int, precision: str) -> None:
    train = TrainConfig(precision=precision, optimizer="adamw")  # type: ignore[arg-type]
    model = _model(width)
    taken = footprint(model, train, SCHEMA.shape, device="cpu")
    assert taken is not None
    before = 4 * 3 * sum(param.numel() for param in model.parameters())  # weights and Adam's two: they were there before the step
    assert taken.bytes_of(ROWS) - before == pytest.approx(_allocated_bytes(model, train), rel=0.25)


def test_an_estimate_leaves_the_model_and_the_generators_as_they_were() -> None:
    model = _model(8)
    before, drawn = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    footprint(model, TrainConfig(dropout=0.5), SCHEMA.shape, device="cpu")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("optimizer", "momentum", "slots"), [("adamw", 0.9, 2), ("sgd", 0.9, 1), ("sgd", 0.0, 0), ("import:mine:optimizer", 0.9, 2)])
def test_an_optimizer_counts_with_its_state(optimizer: str, momentum: float, slots: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 10, bias=False))
    taken = footprint(model, TrainConfig(optimizer=optimizer, momentum=momentum, precision="fp32"), (1, 2, 2), device="cpu")
    assert taken is not None
    assert taken.state_bytes == 4 * 40 * (2 + slots)


def test_an_average_counts_as_the_weights_do() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 10, bias=False))
    with_average, without = (footprint(model, TrainConfig(ema_decay=decay), (1, 2, 2), device="cpu") for decay in (0.9, 0.0))
    assert with_average is not None
    assert without is not None
    assert with_average.state_bytes - without.state_bytes == 4 * 40


class _LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs.flatten(1))
        return outputs if float(outputs.sum()) > 0 else -outputs


def test_a_model_that_looks_at_values_has_no_estimate() -> None:
    assert footprint(_LooksAtValues(), TrainConfig(), (1, 2, 2), device="cpu") is None


@pytest.mark.parametrize(("room", "micro"), [(10_000, 64), (1_400, 64), (1_399, 32), (350, 4), (298, 1)])
def test_a_batch_goes_in_the_largest_passes_that_fit(room: int, micro: int) -> None:
    taken = Footprint(state_bytes=160, row_bytes=10)
    shape = Shape(num_workers=1, micro_batch_size=64, accumulation=1, zero_stage=0)
    found = fitting(taken, shape, room)
    assert found is not None
    assert (found.micro_batch_size, found.batch_size) == (micro, 64)


def test_where_not_one_row_fits_there_are_no_passes() -> None:
    shape = Shape(num_workers=1, micro_batch_size=48, accumulation=1, zero_stage=0)
    assert fitting(Footprint(state_bytes=160, row_bytes=10), shape, 297) is None


@pytest.mark.parametrize(("share", "room_bytes"), [(0.25, 4_400_000_000), (1.0, 19_400_000_000), (2.0, 19_400_000_000), (0.01, 0)])
def test_a_slot_has_its_share_of_a_gpu_without_cudas_own_and_torch_keeps_to_it(
    monkeypatch: pytest.MonkeyPatch, share: float, room_bytes: int
) -> None:
    kept: list[tuple[float, str]] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=20_000_000_000))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda fraction, device: kept.append((fraction, device)))
    assert memory.gpu_room_bytes("cuda:0", share) == room_bytes
    assert kept == [(room_bytes / 20e9, "cuda:0")]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_an_error_of_memory_is_known_by_its_words(error: Exception, expected: bool) -> None:
    assert memory.is_out_of_memory(error) is expected


@pytest.mark.parametrize("family", ["mlp", "rnn", "transformer"])
def test_models_of_tokens_are_estimated_too(family: str) -> None:
    schema = TokenSchema(length=12, vocab_size=50, has_labels=True, classes=("a", "b"), padding=0)
    model = models.build(ModelConfig(family=family, width=16, depth=2), schema, None, seed=0).train()
    taken = memory.footprint(model, TrainConfig(), schema.shape, device="cpu")
    assert taken is not None
    assert taken.row_bytes > 12 * 16 * 4
    assert taken.state_bytes >= 4 * 4 * sum(parameter.numel() for parameter in model.parameters())


def test_a_teacher_in_the_step_counts_with_its_weights_and_what_it_holds_at_once() -> None:
    student, teacher, train = _model(8), _model(32), TrainConfig(precision="fp32")
    alone = footprint(student, train, SCHEMA.shape, device="cpu")
    assert alone is not None
    taught, compared = (memory.beside(alone, teacher, train, SCHEMA.shape, device="cpu", keeps=keeps) for keeps in (False, True))
    assert taught is not None
    assert compared is not None
    weights = sum(tensor.numel() for tensor in [*teacher.parameters(), *teacher.buffers()])
    assert taught.state_bytes - alone.state_bytes == compared.state_bytes - alone.state_bytes == 4 * weights
    assert alone.row_bytes + 2 * 32 * 16 * 16 * 4 <= taught.row_bytes < compared.row_bytes
    assert teacher.training
    assert memory.beside(alone, _LooksAtValues(), train, (1, 2, 2), device="cpu", keeps=False) is None
