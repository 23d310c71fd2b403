"""Writes a finished study into an Optuna storage, which `optuna-dashboard` opens and `optuna.load_study` reads.

| here | there |
|---|---|
| trained (to the end, or stopped at a rung) | COMPLETE with all objectives; `state` among its user attributes says which |
| a repetition of another trial; broke a constraint, or no faster than the teacher, before training | PRUNED |
| failed | FAIL |
| hard constraints, and thresholds of objectives | constraints: positive where broken |
| accuracy after each epoch | intermediate values |
| recipe, metrics, rung, device, why it ended, whether it is on the front or chosen | user attributes |

So Optuna's `best_trials` is this study's front; except that Optuna takes every difference of a latency for real, where here differences below
0.1 ms count as equal (`pareto.LATENCY_FLOOR_MS`): there it may have members that are faster by such a difference alone. When a trial began is not
kept, so all begin there when the run did; how long each took is true.
"""

from __future__ import annotations

import errno
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.errors import ConfigError
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.search import constraints, pareto
from foundry_ray.search.distributions import distributions, is_from_space
from foundry_ray.search.finished import space_of, study_of
from foundry_ray.types import Json, Objective, RunRecord, SearchSpace, StudyResult, Trial, TrialState, to_json

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

_TRAINED = (TrialState.COMPLETE, TrialState.STOPPED)
_FORMS = {"sqlite:///": "sqlite", "journal:": "journal"}
_HINT = "`--to sqlite:///study.db` or `--to journal:study.log`; then `optuna-dashboard sqlite:///study.db` or `optuna-dashboard study.log`."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedStudy:
    """What was written where: `storage` as Optuna names it, for a study `study_name`."""

    storage: str
    study_name: str
    num_trials: int
    path: str


def export_run_study(record: RunRecord, target: str, *, store: ArtifactStore, reporter: Reporter) -> ExportedStudy:
    """Write the study of a run into a new file; see `export_study`. Raises ArtifactNotFound where it has none that is finished."""
    study = study_of(record)
    began_at = datetime.fromisoformat(record.started_at)
    return export_study(study, target, space=space_of(study, store), began_at=began_at, run_id=record.run_id, reporter=reporter)


def export_study(study: StudyResult, target: str, *, space: SearchSpace | None, began_at: datetime, run_id: str, reporter: Reporter) -> ExportedStudy:
    """Write a study into a new file.

    Args:
        study: What was found.
        target: `sqlite:///FILE` or `journal:FILE`.
        space: What was searched; None: the ranges are told from the trials, with a warning.
        began_at: When the run began.
        run_id: The run, for the study's attributes.
        reporter: Told how far it is.

    Raises:
        ConfigError: The target is no such name, is there already, or cannot be written.
    """
    kind, path = _parsed(target)
    ranges = distributions(study.trials, space)
    if not is_from_space(ranges, space):
        reporter.warn("this study kept no space, or its trials are from another one: the ranges of parameters are told from its trials.")
    limits = [constraints.parse(text, where="constraints") for text in (space.constraints if space is not None else ())]
    partial = path.with_name(path.name + ".partial")
    try:
        with _opened(kind, partial) as storage:
            _write(study, storage, ranges, limits, began_at=began_at, run_id=run_id, reporter=reporter)
        path.touch(exist_ok=False)  # somebody may have made it meanwhile
        partial.replace(path)
    except FileExistsError as error:
        raise _is_there(path) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", hint=_HINT) from error
    finally:
        partial.unlink(missing_ok=True)
    name = f"sqlite:///{path}" if kind == "sqlite" else str(path)
    return ExportedStudy(storage=name, study_name=study.study_name, num_trials=len(study.trials), path=str(path))


def _parsed(target: str) -> tuple[str, Path]:
    for prefix, kind in _FORMS.items():
        if target.startswith(prefix) and len(target) > len(prefix):
            path = Path(target.removeprefix(prefix))
            if path.exists():
                raise _is_there(path)
            if not path.parent.is_dir():
                raise ConfigError(f"{path} cannot be written: {path.parent} is no folder.", hint=_HINT)
            return kind, path
    raise ConfigError(f"--to got {target!r}, wanted sqlite:///FILE or journal:FILE.", hint=_HINT)


def _is_there(path: Path) -> ConfigError:
    return ConfigError(f"{path} is there already; nothing is overwritten.", hint="name another file, or delete this one first.")


@contextmanager
def _opened(kind: str, path: Path) -> Iterator[optuna.storages.BaseStorage]:
    """An empty storage in a new file. Raises OSError."""
    from optuna.exceptions import StorageInternalError
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    path.write_bytes(b"")  # here, because what the libraries raise of an impossible place names neither the file nor the reason
    if kind == "journal":
        yield JournalStorage(JournalFileBackend(str(path)))
        return
    storage = RDBStorage(f"sqlite:///{path}")
    try:
        yield storage
    except StorageInternalError as error:
        raise OSError(errno.EIO, str(error.__cause__ or error)) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _write(
    study: StudyResult,
    storage: optuna.storages.BaseStorage,
    ranges: Mapping[str, BaseDistribution],
    limits: Sequence[constraints.Constraint],
    *,
    began_at: datetime,
    run_id: str,
    reporter: Reporter,
) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = ["maximize" if objective.mode == "max" else "minimize" for objective in study.objectives]
    written = optuna.create_study(storage=storage, study_name=study.study_name, directions=directions)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        written.set_metric_names([objective.metric for objective in study.objectives])
    for name, value in _study_attributes(study, run_id).items():
        written.set_user_attr(name, value)
    thresholds = _thresholds(study, limits)
    for done, trial in enumerate(study.trials, 1):
        written.add_trial(_frozen(trial, study, ranges, limits, thresholds, began_at))
        reporter.progress(done, len(study.trials), "writing trials")


def _study_attributes(study: StudyResult, run_id: str) -> dict[str, Json]:
    return {
        "run_id": run_id,
        "study_key": study.study_key,
        "chosen": study.chosen,
        "front": list(study.pareto_front),
        "latency_floor_ms": pareto.LATENCY_FLOOR_MS,
        "stopped_by": study.stopped_by,
        "worker_seconds": study.worker_seconds,
        "cost": study.cost,
    }


def _frozen(
    trial: Trial,
    study: StudyResult,
    ranges: Mapping[str, BaseDistribution],
    limits: Sequence[constraints.Constraint],
    thresholds: Sequence[Objective],
    began_at: datetime,
) -> optuna.trial.FrozenTrial:
    import optuna

    state, values = _state(trial, study)
    frozen = optuna.trial.create_trial(
        state=state,
        values=values,
        params=dict(trial.params),
        distributions={name: ranges[name] for name in trial.params},
        user_attrs=_attributes(trial, study),
        intermediate_values={int(point["epoch"]): point["accuracy"] for point in trial.curve if {"epoch", "accuracy"} <= set(point)},
        constraints=_broken(trial, limits, thresholds),
    )
    frozen.datetime_start, frozen.datetime_complete = began_at, began_at + timedelta(seconds=trial.duration_s)
    return frozen


def _state(trial: Trial, study: StudyResult) -> tuple[optuna.trial.TrialState, list[float] | None]:
    from optuna.trial import TrialState as Theirs

    values = [trial.values.get(objective.metric, math.nan) for objective in study.objectives]
    if trial.state is TrialState.FAILED:
        return Theirs.FAIL, None
    is_own = trial.resource_used > 0  # a repetition has the values of the trial that it repeats, and was not trained
    return (Theirs.COMPLETE, values) if is_own and all(map(math.isfinite, values)) else (Theirs.PRUNED, None)


def _attributes(trial: Trial, study: StudyResult) -> dict[str, Json]:
    return {
        **{f"metric.{name}": value for name, value in trial.values.items()},
        "recipe": to_json(trial.recipe),
        "state": trial.state.value,
        "why": trial.dominated or trial.error or "",
        "on_front": trial.number in study.pareto_front,
        "chosen": trial.number == study.chosen,
        "rung": trial.rung,
        "bracket": trial.bracket,
        "epochs": trial.resource_used,
        "seed": trial.seed,
        "device": trial.device,
        "num_failures": trial.num_failures,
        "checkpoint": trial.checkpoint,
    }


def _thresholds(study: StudyResult, limits: Sequence[constraints.Constraint]) -> list[Objective]:
    """The objectives whose thresholds the front keeps: all that have one, unless no trial keeps them."""
    known = [one for one in study.trials if one.state in _TRAINED and one.resource_used > 0 and not constraints.excesses(limits, one.values)]
    is_kept = any(pareto.is_of_interest(one.values, study.objectives) for one in known)
    return [one for one in study.objectives if one.threshold is not None] if is_kept else []


def _broken(trial: Trial, limits: Sequence[constraints.Constraint], thresholds: Sequence[Objective]) -> dict[str, float]:
    """By how much each constraint is broken whose metric is known; 0 where it holds."""
    found = {str(limit): limit.excess(trial.values[limit.metric]) for limit in limits if limit.metric in trial.values}
    for one in thresholds:
        if one.metric in trial.values:
            found[f"threshold of {one.metric}"] = 0.0 if pareto.is_of_interest(trial.values, [one]) else 1.0
    return found
