"""What a registered version was made of, taken from the record of the run that made it, and from which sources it was started.

A version keeps its own copy, because records of runs can be deleted. Versions that were registered before that find it in the record
where that is still there. Configurations hold no secrets (`config.store`), so neither does this.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from foundry_ray.artifacts.manifests import get_json
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound
from foundry_ray.protocols import ArtifactStore
from foundry_ray.types import DatasetRef, Json, Lineage, ModelArtifact, RunRecord, StudyResult, Trial, from_json

T = TypeVar("T")
_DESCRIBE = ("git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
_TIMEOUT_S = 5.0


def lineage_of_run(record: RunRecord, code: Mapping[str, str]) -> Lineage | None:
    """The lineage of what a run made, or None where its record lacks a stage.

    Args:
        record: With the outputs of the stages data, teacher and search.
        code: What identifies the sources besides foundry's version.
    """
    dataset, teacher = _output(record, "data", DatasetRef), _output(record, "teacher", ModelArtifact)
    study = _output(record, "search", StudyResult)
    if dataset is None or teacher is None or study is None:
        return None
    trial = study.chosen_trial
    return Lineage(
        run_id=record.run_id,
        dataset_key=dataset.key,
        dataset_fingerprint=dataset.fingerprint,
        teacher=teacher.artifact.key,
        teacher_sha256=teacher.artifact.sha256,
        study_key=study.study_key,
        trial=trial,
        config=record.config,
        stages={stage.name: stage.key for stage in record.stages if stage.key},
        seeds=_seeds(record.config, trial),
        versions=dict(record.versions),
        code={"foundry_ray": record.versions.get("foundry-ray", "unknown"), **code},
    )


def rebuild(store: ArtifactStore, run_id: str) -> Lineage | None:
    """The lineage that a run's record tells, or None where the record is gone or tells too little. One request."""
    if not run_id:
        return None
    key = f"runs/{run_id}/record.json"
    try:
        document = get_json(store, key)
        found = document.get("record") if isinstance(document, dict) else None
        return lineage_of_run(from_json(RunRecord, found, what=key), {})
    except (ArtifactNotFound, ArtifactCorrupt):
        return None


def commit_of(folder: Path) -> str:
    """The commit that is checked out in a folder, with `-dirty` where tracked files differ from it.

    Empty where the folder is in no repository with a commit, where git is not installed, or where it does not answer in 5 s.
    """
    try:
        done = subprocess.run(_DESCRIBE, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _output(record: RunRecord, name: str, kind: type[T]) -> T | None:
    stage = record.stage(name)
    if stage is None or stage.outputs is None:
        return None
    return from_json(kind, stage.outputs, what=f"the stage {name} of run {record.run_id}")


def _seeds(config: Json, trial: Trial) -> dict[str, int]:
    seed = config.get("seed") if isinstance(config, dict) else None
    return {"run": seed if isinstance(seed, int) else 0, "trial": trial.seed}
