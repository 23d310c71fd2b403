"""`fit` in one process: no Ray, no DeepSpeed."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from foundry_ray import models
from foundry_ray.artifacts.manifests import load_manifest, read_file
from foundry_ray.config import ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.errors import ArtifactCorrupt, ConfigError, OutOfRange, ResourcesUnavailable, StoreUnavailable
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.training import checkpoint as checkpoints
from foundry_ray.training.rank import best_epoch
from foundry_ray.training.trainer import fit
from foundry_ray.types import ModelArtifact

TRAIN = TrainConfig(epochs=3, batch_size=16, lr=5e-3, precision="fp32", ema_decay=0.8)
CONFIG = TeacherConfig(model=ModelConfig(family="cnn", width=4, depth=1), train=TRAIN, workers=1)
STEPS = 6  # of an epoch


class _Interrupting(RecordingReporter):
    """Stops the process, as far as a test can, when an epoch is reported."""

    def __init__(self, *, at_epoch: int) -> None:
        super().__init__()
        self._at_epoch = at_epoch

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        super().report(step, metrics)
        if step == self._at_epoch:
            raise KeyboardInterrupt


def onnx_of(model: nn.Module) -> bytes:
    return b"onnx of " + models.tensors_to_bytes(model.state_dict())


def run(
    store: ArtifactStore,
    settings: Settings,
    *,
    reporter: RecordingReporter | None = None,
    config: TeacherConfig = CONFIG,
    export: Callable[[nn.Module], bytes] | None = onnx_of,
) -> ModelArtifact:
    return fit(
        config,
        task="image_classification",
        dataset=publish_bands(store),
        augment=("shift",),
        seed=5,
        stage_key="k",
        store=store,
        settings=settings,
        reporter=reporter or RecordingReporter(),
        session=None,
        export=export,
        cost=lambda model: (sum(param.numel() for param in model.parameters()), 123),
        clock=FakeClock(),
    )


def test_fit_publishes_the_best_epoch_with_its_files(memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    artifact = run(memory_store, settings, reporter=reporter)
    assert [epoch for epoch, _ in reporter.reports] == [1, 2, 3]
    assert set(load_manifest(memory_store, artifact.artifact.key).files) == {"architecture.json", "model.onnx", "model.safetensors"}
    assert artifact.size_bytes == len(read_file(memory_store, artifact.artifact.key, "model.onnx"))
    assert artifact.num_macs == 123
    assert artifact.val_metrics == artifact.curve[best_epoch(artifact.curve, "accuracy") - 1]
    assert artifact.notes == ()
    assert not models.load_model(memory_store, artifact).training


def test_without_an_export_weights_and_architecture_are_published(memory_store: MemoryStore, settings: Settings) -> None:
    artifact = run(memory_store, settings, export=None)
    assert set(load_manifest(memory_store, artifact.artifact.key).files) == {"architecture.json", "model.safetensors"}
    assert artifact.size_bytes == len(read_file(memory_store, artifact.artifact.key, "model.safetensors"))


def test_a_start_is_told_in_phases_that_add_up(memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    run(memory_store, settings, reporter=reporter)
    (phases,) = [values for _, values in reporter.points if "start_s" in values]
    parts = {name for name in phases if name != "start_s"}
    assert parts == {f"start_{name}_s" for name in ("driver", "imports", "model", "data", "engine", "restore", "first_step")}


def test_an_interrupted_fit_goes_on_and_ends_with_the_same_bits(settings: Settings) -> None:
    unbroken, broken, second = MemoryStore(), MemoryStore(), RecordingReporter()
    expected = run(unbroken, settings)
    with pytest.raises(KeyboardInterrupt):
        run(broken, settings, reporter=_Interrupting(at_epoch=2))
    artifact = run(broken, settings, reporter=second)
    assert artifact.artifact.key == expected.artifact.key
    assert [epoch for epoch, _ in second.reports] == [3]
    assert [dict(entry) for entry in artifact.curve] == [dict(entry) for entry in expected.curve]


def test_finished_work_is_not_trained_again(memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    first = run(memory_store, settings)
    again = run(memory_store, settings, reporter=reporter)
    assert again.artifact.key == first.artifact.key
    assert reporter.reports == []


@pytest.mark.parametrize("kind", [".bin", ".json"])
def test_a_broken_checkpoint_gives_way_to_the_one_before(
    memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter, kind: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(memory_store, settings, reporter=_Interrupting(at_epoch=2))
    newest = checkpoints.committed(memory_store, "k")[-1]
    key = f"{newest.folder}rank-00000{kind}"
    memory_store.objects[key] = bytes(len(memory_store.objects[key]))
    run(memory_store, settings, reporter=reporter)
    assert [epoch for epoch, _ in reporter.reports] == [2, 3]
    assert "the checkpoint of step 12 is not whole" in reporter.warnings[0]


def test_where_no_checkpoint_is_whole_nothing_is_begun_or_deleted(memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(memory_store, settings, reporter=_Interrupting(at_epoch=2))
    for key in [key for key in memory_store.objects if key.endswith(".bin")]:
        memory_store.objects[key] = bytes(255 - byte for byte in memory_store.objects[key])
    before = set(memory_store.objects)
    with pytest.raises(ArtifactCorrupt, match="checkpoints of this training is whole, wanted one to go on from") as caught:
        run(memory_store, settings, reporter=reporter)
    assert "`--fresh teacher`" in caught.value.hint
    assert reporter.reports == []
    assert set(memory_store.objects) == before


def test_checkpoints_of_a_finished_training_are_the_last_ones_and_the_best(memory_store: MemoryStore, settings: Settings) -> None:
    artifact = run(memory_store, settings, config=CONFIG.model_copy(update={"train": TRAIN.model_copy(update={"epochs": 8})}))
    found = checkpoints.committed(memory_store, "k")
    assert [one.epoch for one in found][-1] == 8
    assert best_epoch(artifact.curve, "accuracy") in [one.epoch for one in found]
    assert len(found) <= 3


def test_deepspeed_without_a_session_is_refused(memory_store: MemoryStore, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.workers is 2 and teacher\.engine is auto, but there is no Ray session") as caught:
        run(memory_store, settings, config=CONFIG.model_copy(update={"workers": 2}))
    assert caught.value.hint == "connect to a cluster, or set `teacher.workers: 1` and `teacher.engine: torch`."


def test_a_batch_that_cannot_be_is_refused_before_anything_starts(memory_store: MemoryStore, settings: Settings) -> None:
    config = CONFIG.model_copy(update={"train": TRAIN.model_copy(update={"batch_size": 97})})
    with pytest.raises(OutOfRange, match="batch_size is 97, but the training split has 96 rows"):
        run(memory_store, settings, config=config)
    assert [key for key in memory_store.objects if key.startswith("checkpoints/")] == []


_FULL: list[int] = []


def small_net(schema: object, size: int) -> nn.Module:
    """A factory of a user's: what it makes has memory for four samples at once."""
    return _Small()


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training and len(inputs) > 4:
            _FULL.append(len(inputs))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        logits: Tensor = self.head(inputs.flatten(1) / 255)
        return logits


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> TeacherConfig:
    """A configuration whose model comes from this file, which a pipeline would import."""
    monkeypatch.setitem(sys.modules, "users_net", sys.modules[small_net.__module__])
    _FULL.clear()
    return CONFIG.model_copy(update={"model": ModelConfig(family="import:users_net:small_net", params={"size": 1}), "train": TRAIN})


def test_out_of_memory_trains_the_same_batches_in_smaller_passes_and_is_noted(
    memory_store: MemoryStore, settings: Settings, reporter: RecordingReporter, small: TeacherConfig
) -> None:
    artifact = run(memory_store, settings, reporter=reporter, config=small)
    assert _FULL == [16, 8]
    assert "now 1 workers x 4 samples x 4 passes, ZeRO 1, the same batch of 16; restarting from the last checkpoint (2 of 8)" in reporter.warnings[1]
    assert artifact.notes == ("memory was short: trained as 1 workers x 4 samples x 4 passes, ZeRO 1, the batch as configured",)
    last = checkpoints.latest(memory_store, "k")
    assert last is not None
    assert last.step == 3 * STEPS


def test_an_attempt_that_ran_out_of_memory_has_given_it_back_when_the_next_begins(
    memory_store: MemoryStore, settings: Settings, small: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    living: weakref.WeakSet[_Small] = weakref.WeakSet()
    at_start: list[int] = []

    def made(self: _Small) -> None:
        at_start.append(len(living))
        init(self)
        living.add(self)

    init = _Small.__init__
    monkeypatch.setattr(_Small, "__init__", made)
    gc.disable()
    try:
        run(memory_store, settings, config=small)
    finally:
        gc.enable()
    assert at_start[:3] == [0, 0, 0]


def test_a_later_run_begins_with_the_shape_that_had_memory(memory_store: MemoryStore, settings: Settings, small: TeacherConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(memory_store, settings, reporter=_Interrupting(at_epoch=2), config=small)
    _FULL.clear()
    reporter = RecordingReporter()
    run(memory_store, settings, reporter=reporter, config=small)
    assert (_FULL, reporter.warnings) == ([], [])


def test_memory_that_never_suffices_is_an_error_that_says_what_was_tried(
    memory_store: MemoryStore, settings: Settings, small: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: _Small, inputs: Tensor) -> Tensor:
        if self.training:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.head(inputs.flatten(1) / 255)

    monkeypatch.setattr(_Small, "forward", forward)
    with pytest.raises(ResourcesUnavailable, match="out of memory with 1 workers x 1 samples x 16 passes, ZeRO 1, and nothing smaller is left"):
        run(memory_store, settings, config=small)


def test_a_bug_in_a_users_model_comes_out_as_it_is(
    memory_store: MemoryStore, settings: Settings, small: TeacherConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: _Small, inputs: Tensor) -> Tensor:
        if self.training:
            raise ValueError("wrong shape")
        return self.head(inputs.flatten(1) / 255)

    monkeypatch.setattr(_Small, "forward", forward)
    with pytest.raises(ValueError, match="wrong shape"):
        run(memory_store, settings, config=small)


def test_a_store_that_is_away_for_a_while_costs_a_checkpoint_and_no_training(settings: Settings, reporter: RecordingReporter) -> None:
    class Away(RecordingReporter):
        def report(self, step: int, metrics: Mapping[str, float]) -> None:
            super().report(step, metrics)
            if step == 1:
                store.fail("put", times=1)

    store = FailingStore(MemoryStore())
    expected, artifact = run(MemoryStore(), settings), run(store, settings, reporter=(away := Away()))
    assert artifact.artifact.key == expected.artifact.key
    assert len(away.warnings) == 1
    assert "is not saved" in away.warnings[0]


def test_a_store_that_stays_away_comes_out_as_itself(settings: Settings) -> None:
    class Gone(RecordingReporter):
        def report(self, step: int, metrics: Mapping[str, float]) -> None:
            super().report(step, metrics)
            store.fail("put", times=10_000)

    store = FailingStore(MemoryStore())
    with pytest.raises(StoreUnavailable):
        run(store, settings, reporter=Gone(), config=CONFIG.model_copy(update={"max_failures": 1}))


@pytest.fixture
def own_ctrl_c() -> Iterator[None]:
    """Python's own answer to Ctrl-C: a Ray Train that ran in this thread before left one of its own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("own_ctrl_c")
def test_a_driver_that_is_interrupted_leaves_after_a_checkpoint(memory_store: MemoryStore, settings: Settings) -> None:
    class CtrlC(RecordingReporter):
        def report(self, step: int, metrics: Mapping[str, float]) -> None:
            super().report(step, metrics)
            if step == 2:
                signal.pthread_kill(main, signal.SIGINT)

    main, reporter = threading.get_ident(), CtrlC()
    with pytest.raises(KeyboardInterrupt):
        run(memory_store, settings, reporter=reporter, config=CONFIG.model_copy(update={"train": TRAIN.model_copy(update={"epochs": 500})}))
    last = checkpoints.latest(memory_store, "k")
    assert last is not None
    assert last.epoch == len(reporter.reports) + 1 < 500, "it was saved and not reported any more"
    assert "train" not in [thread.name for thread in threading.enumerate()]
