"""The student stage: the chosen trial continued to its full budget, then made into what is shipped. Runs where the session puts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_ray.protocols import Clock, Reporter
from foundry_ray.types import ModelArtifact, Trial

if TYPE_CHECKING:
    from foundry_ray.config import ExportConfig
    from foundry_ray.search.study import StudyContext


def make_student(
    context: StudyContext, trial: Trial, *, stage_key: str, clock: Clock, reporter: Reporter, export: ExportConfig | None = None
) -> ModelArtifact:
    """Train on from the trial's last rung, quantize, export, prove parity, publish.

    Checkpoints lie under `stage_key`, so that a killed stage continues.
    """
    from foundry_ray import data
    from foundry_ray.compression import publish_student
    from foundry_ray.search.study import finish_trial

    rows = context.student.calibration_rows
    calibration = data.load_split(context.dataset, "train", store=context.store).inputs_N[:rows]
    return publish_student(
        trial.recipe,
        train=lambda: finish_trial(context, trial, stage_key=stage_key, clock=clock, reporter=reporter),
        dataset=context.dataset,
        calibration_NCHW=calibration,
        parents=(context.teacher.artifact.key,),
        store=context.store,
        clock=clock,
        reporter=reporter,
        export=export,
    )
