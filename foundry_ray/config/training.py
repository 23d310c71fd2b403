"""The sections that say what is trained and how: the model, the training, the workers, DeepSpeed, checkpoints.

Fields that change a result are *semantic* and enter stage keys; where and how fast is *execution*, and tagged so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, model_validator
from pydantic.config import JsonDict

from foundry_ray.config.section import Section
from foundry_ray.plugins import IMPORT

_EXECUTION: JsonDict = {"execution": True}

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Schedule = Literal["one_cycle", "cosine", "linear", "plateau", "constant"]


class ModelConfig(Section):
    """A model of a registered family, sized by numbers, or one of the user's own."""

    family: str = Field(
        "resnet", description="cnn, resnet, mlp, rnn, transformer, pretrained or another registered family, or import:package.module:factory."
    )
    width: int = Field(32, ge=2, le=1024, description="Channels of the first stage, units of a layer, or the width of the residual stream.")
    depth: int = Field(2, ge=1, le=32, description="Blocks per stage, or layers.")
    params: Mapping[str, JsonValue] = Field(
        {},
        description="What else a family takes: cell (rnn), heads and patch (transformer), source (pretrained); or the keyword arguments of an "
        "imported factory, to which width and depth are not passed.",
    )

    @model_validator(mode="after")
    def _sizes_have_a_reader(self) -> ModelConfig:
        fields = type(self).model_fields
        sizes = [f"{name} {value}" for name in ("width", "depth") if (value := getattr(self, name)) != fields[name].default]
        if self.family.startswith(IMPORT) and sizes:
            raise ValueError(f"family is {self.family} with {' and '.join(sizes)}; a factory gets `params` alone")
        return self


class AdversarialConfig(Section):
    """Which rows are changed against the weights of the moment before they are learnt from. Rows without a label are where a teacher's cached answers
    say what would mislead. Costs a forward and a backward pass per changed row, with pgd as many as it has steps."""

    kind: Literal["fgsm", "pgd"] = Field("pgd", description="fgsm: one step (arXiv 1412.6572); pgd: several from a random beginning (1706.06083).")
    epsilon: float = Field(8.0, gt=0, le=255, description="Most that a pixel is changed, of 255.")
    steps: int = Field(7, ge=1, le=1000, description="Of pgd.")
    share: float = Field(0.5, gt=0, le=1, description="Share of the rows of each batch.")

    @model_validator(mode="after")
    def _steps_have_a_reader(self) -> AdversarialConfig:
        if self.kind == "fgsm" and self.steps != type(self).model_fields["steps"].default:
            raise ValueError(f"kind is fgsm with steps {self.steps}; fgsm takes one step")
        return self


class TrainConfig(Section):
    """One training job."""

    epochs: int = Field(12, ge=1, le=10_000, description="Passes over the training split.")
    batch_size: int = Field(128, ge=1, description="Samples per optimizer step over all workers.")
    optimizer: str = Field("adamw", description="Update rule: adamw, sgd, lion, adafactor, or import:package.module:factory.")
    lr: float = Field(2e-3, gt=0, le=10, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay; sgd couples it.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay of the averages of the gradient and its square (adamw), or of lion's two.")
    schedule: Schedule = Field("one_cycle", description="Learning rate over the steps.")
    warmup_ratio: float = Field(0.15, ge=0, lt=1, description="Share of the steps that the learning rate rises.")
    plateau_patience: int = Field(3, ge=1, le=10_000, description="Epochs without a better val metric after which plateau lowers the learning rate.")
    plateau_factor: float = Field(0.2, gt=0, lt=1, description="What plateau multiplies the learning rate by.")
    precision: Precision = Field("auto", description="auto: bf16 where the device computes it natively, else fp32.")
    grad_clip: float = Field(1.0, ge=0, description="Largest gradient norm; 0 switches clipping off.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all classes.")
    mixup_alpha: float = Field(0.0, ge=0, le=10, description="Beta distribution of mixup (arXiv 1710.09412); 0: off.")
    cutmix_alpha: float = Field(
        0.0, ge=0, le=10, description="Beta distribution of cutmix (arXiv 1905.04899); 0: off. With both, each batch takes one."
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="Rate of the model's dropout layers; absent: as the model has them.")
    l1: float = Field(0.0, ge=0, le=1, description="Weight of the sum of absolute weights in the loss.")
    l2: float = Field(0.0, ge=0, le=1, description="Weight of half the sum of squared weights in the loss.")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="Decay per step of the averaged weights that are evaluated and kept; 0: off.")
    adversarial: AdversarialConfig | None = Field(None, description="Training on adversarial images; absent: off.", json_schema_extra={"later": True})
    early_stopping_epochs: int = Field(0, ge=0, le=10_000, description="Epochs without a better val metric after which training ends; 0: off.")

    @model_validator(mode="after")
    def _averages_decay(self) -> TrainConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {list(self.betas)}, but each must be at least 0 and below 1")
        return self


class OffloadConfig(Section):
    """Where a part of the state lies between its uses. All of it is execution."""

    device: Literal["none", "cpu", "nvme"] = Field("none", description="none: on the training device.", json_schema_extra=_EXECUTION)
    path: Path | None = Field(None, description="Folder on a local NVMe disk; nvme needs it.", json_schema_extra=_EXECUTION)
    pin_memory: bool = Field(True, description="Pinned host memory, which copies faster.", json_schema_extra=_EXECUTION)

    @model_validator(mode="after")
    def _nvme_has_a_folder(self) -> OffloadConfig:
        if (self.device == "nvme") != (self.path is not None):
            raise ValueError(f"device is {self.device} and path is {self.path}; nvme needs a path, and only nvme does")
        return self


class LossScaleConfig(Section):
    """How fp16 keeps small gradients: the loss is scaled before the backward pass."""

    initial_power: int = Field(16, ge=0, le=32, description="The first scale is 2 to this power.")
    window_steps: int = Field(1000, ge=1, description="Steps without overflow after which the scale doubles.")
    min_scale: float = Field(1.0, gt=0, description="An overflow at this scale is a divergence.")


class DeepSpeedConfig(Section):
    """What DeepSpeed shards, where it keeps it, and how it talks. All of it but the loss scale is execution."""

    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="ZeRO stage (arXiv 1910.02054).", json_schema_extra=_EXECUTION)
    weights: Literal["fp32", "precision"] = Field(
        "fp32",
        description="fp32: weights stay in fp32 and products run under autocast. precision: weights are cast, fp32 copies are sharded (ZeRO >= 1).",
    )
    offload_optimizer: OffloadConfig = Field(OffloadConfig(), description="The optimizer's state (ZeRO >= 1).", json_schema_extra=_EXECUTION)
    offload_params: OffloadConfig = Field(OffloadConfig(), description="The weights (ZeRO 3).", json_schema_extra=_EXECUTION)
    loss_scale: LossScaleConfig = Field(LossScaleConfig(), description="Of fp16.")
    overlap_comm: Literal["auto", True, False] = Field("auto", description="Reduce while computing; auto: on GPUs.", json_schema_extra=_EXECUTION)
    contiguous_gradients: bool = Field(True, description="Copy gradients into one buffer.", json_schema_extra=_EXECUTION)
    reduce_bucket_size: int | None = Field(
        None, ge=1, description="Elements reduced at once; absent: an eighth of the model, 4 to 50 million.", json_schema_extra=_EXECUTION
    )
    allgather_bucket_size: int | None = Field(None, ge=1, description="Elements gathered at once.", json_schema_extra=_EXECUTION)
    prefetch_bucket_size: int | None = Field(
        None, ge=1, description="Elements that ZeRO 3 fetches ahead; absent: as reduced.", json_schema_extra=_EXECUTION
    )
    persistence_threshold: int | None = Field(
        None, ge=0, description="Parameters below this many elements stay whole under ZeRO 3.", json_schema_extra=_EXECUTION
    )
    max_live_parameters: int | None = Field(
        None,
        ge=1,
        description="Most elements that ZeRO 3 holds whole; absent: an eighth of the model, at least 4 million.",
        json_schema_extra=_EXECUTION,
    )
    extra: Mapping[str, JsonValue] = Field(
        {}, description="Further keys of DeepSpeed's own configuration, passed on as they are.", json_schema_extra=_EXECUTION
    )


class CheckpointConfig(Section):
    """When training is saved, and what is kept. All of it is execution."""

    every_s: float = Field(
        300.0,
        gt=0,
        le=86_400,
        description="Seconds between checkpoints; a better epoch and the last one are saved at once.",
        json_schema_extra=_EXECUTION,
    )
    every_steps: int | None = Field(None, ge=1, description="A checkpoint after each multiple of so many steps, too.", json_schema_extra=_EXECUTION)
    keep_last: int = Field(2, ge=1, le=1000, description="Newest checkpoints to keep.", json_schema_extra=_EXECUTION)
    keep_best: int = Field(1, ge=1, le=1000, description="Best checkpoints to keep, by the val metric.", json_schema_extra=_EXECUTION)
    commit_timeout_s: float = Field(
        600.0, gt=0, le=86_400, description="Longest wait until a checkpoint is in the store.", json_schema_extra=_EXECUTION
    )


class TeacherConfig(Section):
    """The large model that the student learns from."""

    model: ModelConfig = Field(ModelConfig(), description="Its architecture.")
    train: TrainConfig = Field(TrainConfig(), description="How it is trained.")
    engine: Literal["auto", "deepspeed", "torch"] = Field(
        "auto", description="auto: torch for one worker, deepspeed for more. torch trains in this process, without Ray.", json_schema_extra=_EXECUTION
    )
    workers: int = Field(2, ge=1, le=4096, description="Ray Train workers; the global batch stays the same.", json_schema_extra=_EXECUTION)
    min_workers: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="With fewer workers than `workers` training goes on, down to this many; absent: it waits.",
        json_schema_extra=_EXECUTION,
    )
    cpus_per_worker: float = Field(1.0, gt=0, le=1024, description="CPUs that a worker reserves.", json_schema_extra=_EXECUTION)
    gpus_per_worker: float = Field(1.0, gt=0, le=1, description="GPU share of a worker, where GPUs are used.", json_schema_extra=_EXECUTION)
    use_gpu: Literal["auto", True, False] = Field(
        "auto", description="auto: a GPU share per worker where there are enough.", json_schema_extra=_EXECUTION
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Samples per worker and forward pass; gradients accumulate to batch_size. Absent: all at once.",
        json_schema_extra=_EXECUTION,
    )
    activation_checkpointing: bool = Field(
        False, description="Compute activations twice and keep fewer of them (arXiv 1604.06174).", json_schema_extra=_EXECUTION
    )
    compile: bool = Field(False, description="torch.compile; costs seconds to minutes at the start.", json_schema_extra=_EXECUTION)
    deterministic: bool = Field(
        False, description="Only kernels that give the same bits each time; slower on GPUs. CPUs always do.", json_schema_extra=_EXECUTION
    )
    deepspeed: DeepSpeedConfig = Field(DeepSpeedConfig(), description="DeepSpeed settings.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Checkpoints.", json_schema_extra=_EXECUTION)
    start_timeout_s: float = Field(
        600.0, gt=0, le=86_400, description="Longest wait until the workers' resources are free.", json_schema_extra=_EXECUTION
    )
    max_failures: int = Field(3, ge=0, le=100, description="Worker deaths survived from one checkpoint to the next.", json_schema_extra=_EXECUTION)
    max_preemptions: int = Field(
        100, ge=0, le=10_000, description="Preempted workers or lost nodes survived from one checkpoint to the next.", json_schema_extra=_EXECUTION
    )
    max_memory_retries: int = Field(
        8,
        ge=0,
        le=100,
        description="Times that a run out of memory goes on with a smaller micro-batch or a higher ZeRO stage.",
        json_schema_extra=_EXECUTION,
    )

    @model_validator(mode="after")
    def _workers_are_a_range(self) -> TeacherConfig:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers} and workers is {self.workers}; the range is empty")
        return self
