"""What of a store is garbage: what nothing needs, and of the work behind what is needed, what its retention lets go. Pure.

| kind | stays |
|---|---|
| runs | until `retention.runs_days`, and as long as a registered version names the run |
| stages, artifacts, blobs | what is named |
| checkpoints | of unfinished stages all, of finished ones as `retention.checkpoints` says |
| studies | the journal; of unfinished studies, and of those that an unfinished one extends, all trials; of finished ones as `retention.trials` says |
| targets | those of the teachers and data of kept runs |
| leases | those that are held |

Folders of a stage key go as a whole or not at all where nobody names them: one young object keeps them. Keys of any other form stay.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from foundry_ray.config import RetentionConfig
from foundry_ray.housekeeping.roots import Needed, Policy, results_by_stage_key
from foundry_ray.protocols import ObjectInfo
from foundry_ray.search.targets import target_key, trial_seed
from foundry_ray.training.checkpoint import layout
from foundry_ray.types import DatasetRef, Json, ModelArtifact, RunRecord, StageStatus, from_json

WHY_KEPT = {
    "runs": "records of runs stay as `store.retention.runs_days` says",
    "registry": "always",
    "registry-names": "always",
    "stages": "named by runs and versions",
    "artifacts": "named by runs and versions, or young",
    "blobs": "named by artifacts, or young",
    "checkpoints": "unfinished work, and `store.retention.checkpoints`",
    "studies": "journals, unfinished studies, and `store.retention.trials`",
    "targets": "of the teachers of runs",
    "leases": "held, or young",
    "latency": "measurements are kept",
    "test_openings": "the log of test is kept",
    "gc": "what collections are at",
}
COLLECTORS = "gc"
"""The key of the lease that collectors hold."""
_NAMED = re.compile(r"stages/[^/]+/[0-9a-f]{32}\.json|artifacts/[^/]+/[0-9a-f]{64}(\.\d+)?\.json|blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}(\.\d+)?")
_TARGET = re.compile(r"targets/[0-9a-f]{64}\.npz")
_UNIT = re.compile(r"(checkpoints|studies)/([0-9a-f]{32})/.+")
_TRIAL = re.compile(r"studies/[0-9a-f]{32}/trials/\d{6}/.+")
_LEASE = re.compile(r"leases/([^/]+)/(\d{8})\.(claim|beat|done)")


def garbage(objects: Sequence[ObjectInfo], needed: Needed, policy: Policy) -> list[ObjectInfo]:
    """What may be deleted, in key order."""
    return sorted(_garbage(objects, needed, policy), key=lambda info: info.key)


def _garbage(objects: Sequence[ObjectInfo], needed: Needed, policy: Policy) -> Iterator[ObjectInfo]:
    targets = _needed_targets(needed.records)
    for info in objects:
        is_loose = _NAMED.fullmatch(info.key) is not None and info.key not in needed.keys
        is_expired = info.key.startswith("runs/") and info.key.split("/")[1] in needed.expired
        is_target = _TARGET.fullmatch(info.key) is not None and targets is not None and info.key not in targets
        if (is_loose or is_expired or is_target) and info.modified_at_s < policy.cutoff_s:
            yield info
    yield from _leases(objects, policy.cutoff_s)
    yield from _units(objects, needed, policy)


def _units(objects: Sequence[ObjectInfo], needed: Needed, policy: Policy) -> Iterator[ObjectInfo]:
    """The folders of stages and studies."""
    units: dict[tuple[str, str], list[ObjectInfo]] = defaultdict(list)
    for info in objects:
        match = _UNIT.fullmatch(info.key)
        if match:
            units[match[1], match[2]].append(info)
    finished = results_by_stage_key(info.key for info in objects)
    held = _held(objects, policy.cutoff_s)
    unfinished = _unfinished_studies(needed, finished)
    extended = {key for record in needed.records if not _is_searched(record, finished) for key in _extends(record.config)}
    spared = _spared_trials(needed, finished, extended, policy.retention)
    for (kind, stage_key), members in units.items():
        if stage_key not in needed.stage_keys:
            is_somebodys = stage_key in held or (kind == "studies" and unfinished is None)
            is_young = any(info.modified_at_s >= policy.cutoff_s for info in members)
            yield from () if is_somebodys or is_young else members
            continue
        if kind == "checkpoints":
            kept = None if stage_key not in finished else _kept_checkpoints(members, policy.retention)
        else:
            is_open = unfinished is None or stage_key in unfinished | extended or stage_key not in needed.studies
            is_kept_whole = is_open or policy.retention.trials == "all"
            kept = None if is_kept_whole else {info.key for info in members if not _TRIAL.fullmatch(info.key) or info.key in spared}
        yield from (info for info in members if kept is not None and info.key not in kept and info.modified_at_s < policy.cutoff_s)


def _kept_checkpoints(members: Sequence[ObjectInfo], retention: RetentionConfig) -> set[str]:
    """Of a finished stage."""
    if retention.checkpoints == "all":
        return {info.key for info in members}
    whole = layout.committed_keys(info.key for info in members)
    return set(whole[-1]) if whole and retention.checkpoints == "last" else set()


def _spared_trials(needed: Needed, finished: Mapping[str, list[str]], extended: AbstractSet[str], retention: RetentionConfig) -> set[str]:
    """The trial checkpoints from which something may still be trained: a student from those of the front and the chosen one, and a study that goes
    on from another one from all that it took over. They lie with the study that trained them first."""
    found = set()
    for study_key, results in needed.studies.items():
        is_awaited = any(_awaits_student(record, study_key, finished) for record in needed.records)
        for study in results:
            numbers = set(study.pareto_front) if retention.trials == "front" else set()
            numbers |= {study.chosen} if retention.trials == "front" or is_awaited else set()
            found |= {trial.checkpoint for trial in study.trials if trial.checkpoint and (trial.number in numbers or study_key in extended)}
    return found


def _is_searched(record: RunRecord, finished: Mapping[str, list[str]]) -> bool:
    stage = record.stage("search")
    return stage is not None and (stage.status in (StageStatus.DONE, StageStatus.REUSED) or stage.key in finished)


def _extends(config: Json) -> list[str]:
    """The studies that a run's study begins with."""
    search = config.get("search") if isinstance(config, dict) else None
    extends = search.get("extends") if isinstance(search, dict) else None
    return [key for key in extends if isinstance(key, str)] if isinstance(extends, list) else []


def _awaits_student(record: RunRecord, study_key: str, finished: Mapping[str, list[str]]) -> bool:
    search, student = record.stage("search"), record.stage("student")
    is_of_study = search is not None and isinstance(search.outputs, dict) and search.outputs.get("study_key") == study_key
    return is_of_study and (student is None or student.key not in finished)


def _unfinished_studies(needed: Needed, finished: Mapping[str, list[str]]) -> set[str] | None:
    """Studies that a kept run is in the middle of; None where one does not say which, as records did not at first."""
    found = set()
    for record in needed.records:
        stage = record.stage("search")
        if stage is not None and not _is_searched(record, finished):
            if not stage.progress_key:
                return None
            found.add(stage.progress_key)
    return found


def _leases(objects: Sequence[ObjectInfo], cutoff_s: float) -> Iterator[ObjectInfo]:
    """Leases that were given back, and those that were taken over; but not the collectors' own, who clear them away themselves."""
    for key, fences in _fences(objects).items():
        last = max(fences)
        for fence, parts in fences.items():
            is_over = fence < last or "done" in parts
            is_old = all(info.modified_at_s < cutoff_s for info in parts.values())
            yield from parts.values() if is_over and is_old and key != COLLECTORS else ()


def _held(objects: Sequence[ObjectInfo], cutoff_s: float) -> set[str]:
    """Keys that somebody works on: the last lease was not given back, and is young."""
    return {
        key
        for key, fences in _fences(objects).items()
        if "done" not in fences[max(fences)] and any(info.modified_at_s >= cutoff_s for info in fences[max(fences)].values())
    }


def _fences(objects: Sequence[ObjectInfo]) -> dict[str, dict[int, dict[str, ObjectInfo]]]:
    found: dict[str, dict[int, dict[str, ObjectInfo]]] = {}
    for info in objects:
        match = _LEASE.fullmatch(info.key)
        if match:
            found.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = info
    return found


def _needed_targets(records: Sequence[RunRecord]) -> set[str] | None:
    """The teacher's logits that kept runs would read; None where a record does not say."""
    found = set()
    for record in records:
        data, teacher = record.stage("data"), record.stage("teacher")
        if data is None or teacher is None or data.outputs is None or teacher.outputs is None:
            continue
        dataset = from_json(DatasetRef, data.outputs, what=f"data set of {record.run_id}")
        model = from_json(ModelArtifact, teacher.outputs, what=f"teacher of {record.run_id}")
        key = _target_of(record.config, dataset, model)
        if key is None:
            return None
        found.add(key)
    return found


def _target_of(config: Json, dataset: DatasetRef, teacher: ModelArtifact) -> str | None:
    try:
        augment, views, seed = config["data"]["augment"], config["student"]["target_views"], config["seed"]  # type: ignore[index, call-overload]
    except (KeyError, TypeError):
        return None
    return target_key(
        fingerprint=dataset.fingerprint,
        teacher_sha256=teacher.artifact.sha256,
        augment=tuple(augment),  # type: ignore[arg-type]
        views=int(views),  # type: ignore[arg-type]
        seed=trial_seed(int(seed)),  # type: ignore[arg-type]
    )
