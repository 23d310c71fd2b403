"""What is trained on what, and who teaches it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from foundry_ray.config import TrainConfig
from foundry_ray.protocols import Task, TrainingAid
from foundry_ray.training.feed import DistilTargets, TensorSplit

Transfer: TypeAlias = Literal["features", "attention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineTeacher:
    """Models that answer in each step, on what the student sees: augmented afresh, or mixed.

    Attributes:
        models: Taken to the student's device; their answers' softened probabilities are averaged.
        alpha: As in `DistilTargets`, like `temperature` and `uses_labels`.
        transfer: Layers that are compared too, of the one teacher there is.
        beta: The weight of that distance, which is added to the loss.
    """

    models: tuple[nn.Module, ...]
    alpha: float
    temperature: float
    uses_labels: bool = True
    transfer: Transfer | None = None
    beta: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAverage:
    """The student's own averaged weights answer, as they are before a step (mean teacher, arXiv 1703.01780)."""

    alpha: float
    temperature: float
    uses_labels: bool = True


Distil: TypeAlias = DistilTargets | OnlineTeacher | OwnAverage


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """What is trained on what. `eval_transform` makes of a copy of the model what would be shipped (int8 simulated, say).

    Each rank's share of a batch goes through the model in passes of `micro_batch_size` rows; all at once where absent. `aids` act before and after
    each step, in one process alone.
    """

    train: TrainConfig
    task: Task
    split_train: TensorSplit
    split_val: TensorSplit
    augment: tuple[str, ...] = ()
    seed: int = 0
    distil: Distil | None = None
    eval_transform: Callable[[nn.Module], nn.Module] | None = None
    micro_batch_size: int | None = None
    aids: tuple[TrainingAid, ...] = ()
