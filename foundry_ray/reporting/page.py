"""`foundry report RUN`: one self-contained HTML page. No script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from foundry_ray.errors import ConfigError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.reporting import comparison, figures, units
from foundry_ray.reporting.leaderboard import leaderboard, why_ended
from foundry_ray.reporting.studies import spending
from foundry_ray.types import Endpoint, EvaluationReport, ModelArtifact, RunRecord, StudyResult, from_json

if TYPE_CHECKING:
    from foundry_ray.search.importance import Importance

T = TypeVar("T")


def render(record: RunRecord, importances: Sequence[Importance] = ()) -> str:
    """The page of a run, with as much as the run has done. `importances` are those of its study."""
    import jinja2

    template = resources.files("foundry_ray.reporting").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(
        duration=units.duration, value=units.value, count=units.si_count, bytes=units.si_bytes, times=units.times, why_ended=why_ended
    )
    teacher = _output(record, "teacher", ModelArtifact)
    student = _output(record, "student", ModelArtifact)
    study = _output(record, "search", StudyResult)
    report = _output(record, "evaluation", EvaluationReport)
    return environment.from_string(template).render(
        record=record,
        teacher=teacher,
        student=student,
        study=study,
        report=report,
        endpoint=_output(record, "serving", Endpoint),
        rows=comparison.rows(report) if report else [],
        trials=leaderboard(study) if study else [],
        params=sorted({name for trial in study.trials for name in trial.params}) if study else [],
        figures=_figures(teacher, student, study, importances),
        spending=list(spending(study)) if study else [],
        importances=importances,
    )


def _output(record: RunRecord, stage: str, kind: type[T]) -> T | None:
    done = record.stage(stage)
    return from_json(kind, done.outputs, what=f"{stage} of {record.run_id}") if done is not None and done.outputs is not None else None


def _figures(teacher: ModelArtifact | None, student: ModelArtifact | None, study: StudyResult | None, importances: Sequence[Importance]) -> list[str]:
    drawn = []
    if study is not None:
        drawn += [*(figures.front(study, metric) for metric in figures.costs(study)), figures.trial_curves(study)]
        drawn += [figures.hypervolume(study.history)] if study.history else []
    if any(one.shares for one in importances):
        drawn.append(figures.importances(importances))
    if teacher is not None:
        drawn.append(figures.learning_curves(teacher.curve, student.curve if student else ()))
    return drawn


def write(store: ArtifactStore, record: RunRecord, path: Path, importances: Sequence[Importance] = ()) -> Path:
    """Render the page into a file, and keep it in the store beside the record. Raises ConfigError where the file cannot be written."""
    page = render(record, importances).encode()
    store.put(f"runs/{record.run_id}/report.html", page)
    try:
        path.write_bytes(page)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", hint="name a file in an existing folder: `-o FILE.html`.") from error
    return path
