"""Training on GPUs. No GPU is needed to collect these; each says what it lacks. On a machine with one, or better two:

    make dev && .venv/bin/python -m pytest tests/gpu -rs

Numbers of two number formats or two devices are compared with a stated tolerance, numbers of the same work bit for bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from foundry_ray import tasks
from foundry_ray.artifacts import open_store
from foundry_ray.clock import SystemClock
from foundry_ray.config import AdversarialConfig, ModelConfig, Settings, TeacherConfig, TrainConfig
from foundry_ray.runtime.session import Session
from foundry_ray.testing.datasets import publish_bands
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.flops import peak_flops
from foundry_ray.training.loop import FitJob, Loop, TensorSplit
from foundry_ray.training.trainer import fit
from foundry_ray.types import ModelArtifact

sys.path.insert(0, str(Path(__file__).parent))
from _gpu_rank import Case, as_argument

NUM_GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.skipif(NUM_GPUS == 0, reason="torch sees no CUDA device"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray warns about its own defaults
]
_ROOT = Path(__file__).parents[2]
_STAGES = (0, 1, 2, 3)
# TF32 is on in convolutions, so products have 10 bits of mantissa; 24 steps of AdamW on a loss around 0.3 multiply that by about ten.
_TOLERANCE = 0.05
_FULL = {"offload_optimizer": {"device": "cpu"}, "offload_params": {"device": "cpu"}}
_PLAIN = (Case(name="torch", engine="torch"), *(Case(name=f"zero-{stage}", deepspeed={"zero_stage": stage}) for stage in _STAGES))
_OFFLOADED = (
    *(Case(name=f"offload-{stage}", deepspeed={"zero_stage": stage, "offload_optimizer": {"device": "cpu"}}) for stage in (1, 2, 3)),
    Case(name="offload-weights", deepspeed={"zero_stage": 3, **_FULL}),
)
_HALF = (
    *(Case(name=f"torch-{precision}", engine="torch", precision=precision) for precision in ("bf16", "fp16")),
    *(Case(name=f"{precision}-{stage}", precision=precision, deepspeed={"zero_stage": stage}) for precision in ("bf16", "fp16") for stage in _STAGES),
    *(
        Case(name=f"cast-{precision}-{stage}", precision=precision, deepspeed={"zero_stage": stage, "weights": "precision"})
        for precision in ("bf16", "fp16")
        for stage in (1, 2, 3)
    ),
)
_COMPILED = (
    Case(name="compiled-torch", engine="torch", teacher={"compile": True}),
    Case(name="compiled-torch-auto", engine="torch", precision="auto", teacher={"compile": True}),
    Case(name="compiled-zero-1", deepspeed={"zero_stage": 1}, teacher={"compile": True}),
)
_RECOMPUTED = (
    Case(name="recomputed-torch", engine="torch", teacher={"activation_checkpointing": True}),
    Case(name="recomputed-zero-3", deepspeed={"zero_stage": 3}, teacher={"activation_checkpointing": True}),
)
_EXACT = (("torch", {}), *((f"zero-{stage}", {"zero_stage": stage}) for stage in _STAGES))
_RESUMED = tuple(
    Case(
        name=f"{word}-{name}",
        engine="torch" if name == "torch" else "deepspeed",
        deepspeed=settings,
        teacher={"deterministic": True},
        resumes=resumes,
    )
    for name, settings in _EXACT
    for word, resumes in (("unbroken", False), ("resumed", True))
)

Results = dict[str, dict[str, Any]]


def _results(folder: Path, cases: tuple[Case, ...]) -> Results:
    folder.mkdir()
    env = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "LOCAL_RANK": "0", "PYTHONPATH": str(_ROOT)}
    env.pop("DS_ACCELERATOR", None)
    command = [sys.executable, str(Path(__file__).parent / "_gpu_rank.py"), str(folder), *map(as_argument, cases)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    return {case.name: json.loads((folder / f"{case.name}.json").read_text()) for case in cases}


def _has_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return _results(tmp_path_factory.mktemp("gpu") / "plain", _PLAIN)


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Results:
    half = tuple(case for case in _HALF if case.precision != "bf16" or _has_bf16())
    return _results(tmp_path_factory.mktemp("gpu") / "special", (*_OFFLOADED, *half, *_RECOMPUTED))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Apart: it needs a C compiler for Triton, and takes a minute."""
    return _results(tmp_path_factory.mktemp("gpu") / "compiled", _COMPILED)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return _results(tmp_path_factory.mktemp("gpu") / "resumed", _RESUMED)


def _losses(result: dict[str, Any]) -> list[float]:
    return [epoch["loss"] for epoch in result["curve"]]


@pytest.mark.parametrize("stage", _STAGES)
def test_each_zero_stage_learns_what_the_torch_engine_learns(plain: Results, stage: int) -> None:
    result = plain[f"zero-{stage}"]
    assert _losses(result) == pytest.approx(_losses(plain["torch"]), rel=_TOLERANCE)
    assert result["curve"][-1]["accuracy"] > 0.95
    assert result["devices"] == ["cuda:0"]


@pytest.mark.parametrize("case", _OFFLOADED, ids=lambda case: case.name)
def test_offload_changes_where_state_lies_and_not_what_is_learnt(plain: Results, special: Results, case: Case) -> None:
    result = special[case.name]
    assert _losses(result) == pytest.approx(_losses(plain["torch"]), rel=_TOLERANCE)
    assert result["devices"] == ["cpu"]


@pytest.mark.parametrize("case", _HALF, ids=lambda case: case.name)
def test_half_precision_learns(special: Results, case: Case) -> None:
    if case.precision == "bf16" and not _has_bf16():
        pytest.skip(f"{torch.cuda.get_device_name()} computes no bf16")
    result = special[case.name]
    assert result["curve"][-1]["accuracy"] > 0.95
    assert result["curve"][-1]["loss"] < result["curve"][0]["loss"]


@pytest.mark.parametrize("case", _RECOMPUTED, ids=lambda case: case.name)
def test_recomputed_activations_change_nothing_that_is_learnt(plain: Results, special: Results, case: Case) -> None:
    assert _losses(special[case.name]) == pytest.approx(_losses(plain["torch"]), rel=_TOLERANCE)


@pytest.mark.parametrize("case", _COMPILED, ids=lambda case: case.name)
def test_a_compiled_model_learns_the_same(plain: Results, compiled: Results, case: Case) -> None:
    assert compiled[case.name]["curve"][-1]["accuracy"] > 0.95
    if case.precision == "fp32":
        assert _losses(compiled[case.name]) == pytest.approx(_losses(plain["torch"]), rel=_TOLERANCE)


@pytest.mark.parametrize("name", [name for name, _ in _EXACT])
def test_a_resumed_training_is_the_unbroken_one_bit_for_bit(resumed: Results, name: str) -> None:
    unbroken, other = resumed[f"unbroken-{name}"], resumed[f"resumed-{name}"]
    assert other["weights"] == unbroken["weights"]
    assert other["curve"] == unbroken["curve"]


@pytest.mark.parametrize("case", _PLAIN, ids=lambda case: case.name)
def test_metrics_name_the_memory_of_the_gpu_and_its_mfu(plain: Results, case: Case) -> None:
    points = plain[case.name]["points"]
    assert points
    assert all(0 < point["memory_bytes"] < torch.cuda.get_device_properties(0).total_memory for point in points)
    if peak_flops("cuda:0", "tf32") is None:
        pytest.skip(f"no data sheet of {torch.cuda.get_device_name()} is known, so there is no MFU")
    assert all(0 < point["mfu"] < 1 for point in points)


@pytest.fixture
def ray_with_gpus(ray_session: Any) -> Any:
    if ray_session.cluster_resources().get("GPU", 0.0) < 1:
        pytest.skip("Ray sees no GPU")
    return ray_session


def _fit(tmp_path: Path, settings: Settings, reporter: RecordingReporter, **fields: object) -> ModelArtifact:
    """On Ray where there are workers to start, else in this process."""
    store = open_store(f"file://{tmp_path}/store", settings=settings)
    train = TrainConfig(epochs=3, batch_size=32, lr=5e-3)
    config = TeacherConfig(model=ModelConfig(family="cnn", width=4, depth=1), train=train, use_gpu=True).model_copy(update=fields)
    return fit(
        config,
        task="image_classification",
        dataset=publish_bands(store, num_train=320),
        augment=("shift",),
        seed=5,
        stage_key="k",
        store=store,
        settings=settings,
        reporter=reporter,
        session=Session(reporter=reporter, is_owner=False, started_head=False) if config.workers > 1 else None,
        export=None,
        cost=lambda model: (sum(param.numel() for param in model.parameters()), 0),
        clock=SystemClock(),
    )


def test_a_step_does_not_wait_for_the_gpu(settings: Settings, reporter: RecordingReporter) -> None:
    """It would stand idle while Python prepares the next one."""
    split = TensorSplit(inputs_N=torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8), labels_N=torch.arange(64) % 3)
    train = TrainConfig(epochs=1, batch_size=8, precision="fp32", ema_decay=0.9, mixup_alpha=0.3)
    job = FitJob(train=train, task=tasks.get("image_classification"), split_train=split, split_val=split, augment=("shift", "flip"))
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    loop = Loop(job, TorchEngine(model, train, device="cuda:0"), reporter=reporter, clock=SystemClock())
    first, second, *_ = loop._batches()
    loop._step(first, 1e-3)  # libraries are loaded in the first
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop._step(second, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_one_worker_trains_on_the_gpu_in_this_process(tmp_path: Path, settings: Settings, reporter: RecordingReporter) -> None:
    torch.cuda.reset_peak_memory_stats()
    assert _fit(tmp_path, settings, reporter, workers=1).val_metrics["accuracy"] > 0.9
    assert torch.cuda.max_memory_allocated() > 0


@pytest.mark.parametrize("stage", _STAGES)
def test_two_workers_share_one_gpu(ray_with_gpus: Any, tmp_path: Path, settings: Settings, reporter: RecordingReporter, stage: int) -> None:
    deepspeed = TeacherConfig().deepspeed.model_copy(update={"zero_stage": stage})
    model = _fit(tmp_path, settings, reporter, workers=2, gpus_per_worker=0.5, deepspeed=deepspeed)
    assert model.val_metrics["accuracy"] > 0.9
    assert reporter.warnings == []


@pytest.mark.skipif(NUM_GPUS < 2, reason=f"NCCL joins two GPUs, and torch sees {NUM_GPUS}")
@pytest.mark.parametrize("stage", _STAGES)
def test_two_workers_train_on_a_gpu_each_over_nccl(
    ray_with_gpus: Any, tmp_path: Path, settings: Settings, reporter: RecordingReporter, stage: int
) -> None:
    deepspeed = TeacherConfig().deepspeed.model_copy(update={"zero_stage": stage})
    model = _fit(tmp_path, settings, reporter, workers=2, gpus_per_worker=1.0, deepspeed=deepspeed)
    assert model.val_metrics["accuracy"] > 0.9
    assert reporter.warnings == []


def test_recurrent_models_learn_from_adversarial_images(settings: Settings, reporter: RecordingReporter) -> None:
    """cuDNN's layers have no gradient in eval mode, in which inputs are changed."""

    class Rows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = torch.nn.LSTM(8, 6, batch_first=True), torch.nn.Linear(6, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.head(self.layer(inputs[:, 0] / 255)[0].mean(1))
            return outputs

    split = TensorSplit(inputs_N=torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8), labels_N=torch.arange(64) % 3)
    train = TrainConfig(epochs=1, batch_size=8, adversarial=AdversarialConfig(steps=2))
    job = FitJob(train=train, task=tasks.get("image_classification"), split_train=split, split_val=split)
    metrics = Loop(job, TorchEngine(Rows(), train, device="cuda:0"), reporter=reporter, clock=SystemClock()).run_epoch()
    assert metrics["loss"] > 0
