"""How much of their accuracy teacher and student keep on damaged and on adversarial images; both answer as they are served.

Legend: N samples, K kinds of damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.config import AttackGate, CorruptionGate, GatesConfig
from foundry_ray.evaluation import attacks, metrics
from foundry_ray.evaluation.corruptions import corrupt
from foundry_ray.inference import Runtime, run_batched
from foundry_ray.protocols import Task
from foundry_ray.schemas import Schema, images_only
from foundry_ray.types import MetricValue

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

CORRUPTED = "corrupted_accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model, as it answers and as it can be attacked; its weights are loaded only where somebody attacks them."""

    runtime: Runtime
    load: Callable[[], nn.Module]


def attack_metric(gate: AttackGate) -> str:
    """The name under which reports have the accuracy under an attack: `fgsm_8_accuracy`."""
    return f"{gate.name}_accuracy"


def check_gates(gates: GatesConfig, schema: Schema) -> None:
    """See that what the gates ask for can be measured. Raises ConfigError."""
    if gates.attacks:
        attacks.check_installed()
    for name, asked in (("gates.corruptions", gates.corruptions is not None), ("gates.attacks", bool(gates.attacks))):
        if asked:
            images_only(schema, what=name, hint=f"leave `{name}` out.")


def robustness(
    gates: GatesConfig, subjects: Sequence[Subject], task: Task, images_NCHW: np.ndarray, labels_N: np.ndarray
) -> list[dict[str, MetricValue]]:
    """What the gates ask for, of each model by metric; empty where they ask for nothing.

    Args:
        gates: Which images, and how many.
        subjects: The models.
        task: Its primary metric's scores are what counts.
        images_NCHW: Raw pixels of the split that judges.
        labels_N: Their labels.
    """
    found: list[dict[str, MetricValue]] = [{} for _ in subjects]
    if gates.corruptions is not None:
        rows = _spaced(len(labels_N), gates.corruptions.max_rows)
        for mine, subject in zip(found, subjects, strict=True):
            mine.update(_on_corrupted(gates.corruptions, subject.runtime, task, images_NCHW[rows], labels_N[rows]))
    for gate in gates.attacks:
        rows = _spaced(len(labels_N), gate.max_rows)
        for mine, subject in zip(found, subjects, strict=True):
            mine[attack_metric(gate)] = _on_attacked(gate, subject, task, images_NCHW[rows], labels_N[rows])
    return found


def _on_corrupted(gate: CorruptionGate, runtime: Runtime, task: Task, images_NCHW: np.ndarray, labels_N: np.ndarray) -> dict[str, MetricValue]:
    """The mean over all kinds and severities, whose interval is over images; and the mean of each kind."""
    import numpy as np

    scores_KN = []
    for kind in gate.kinds:
        damaged = (corrupt(images_NCHW, kind, severity) for severity in gate.severities)
        scores_KN.append(np.mean([task.correct(run_batched(runtime, images), labels_N) for images in damaged], axis=0))
    by_kind = {f"{kind}_accuracy": metrics.mean(scores_N) for kind, scores_N in zip(gate.kinds, scores_KN, strict=True)}
    return {CORRUPTED: metrics.mean(np.mean(scores_KN, axis=0)), **by_kind}


def _on_attacked(gate: AttackGate, subject: Subject, task: Task, images_NCHW: np.ndarray, labels_N: np.ndarray) -> MetricValue:
    """Made against the fp32 weights, judged by the file that is served."""
    model, runtime = subject.load(), subject.runtime
    num_classes = runtime.run(images_NCHW[:1]).shape[1]
    changed = attacks.attacked(model, images_NCHW, labels_N, gate, num_classes=num_classes)
    return metrics.mean(task.correct(run_batched(runtime, changed), labels_N))


def _spaced(num_rows: int, most: int) -> np.ndarray:
    import numpy as np

    return np.linspace(0, num_rows - 1, min(num_rows, most)).round().astype(int)
