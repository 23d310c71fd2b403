"""Tables for the terminal, in 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from foundry_ray.reporting import comparison, units
from foundry_ray.reporting.leaderboard import why_ended
from foundry_ray.types import Endpoint, EvaluationReport, RunRecord, StageStatus, StudyResult, Trial, TrialState, from_json

_STATUS_STYLE = {
    StageStatus.DONE: "green",
    StageStatus.REUSED: "cyan",
    StageStatus.RUNNING: "yellow",
    StageStatus.FAILED: "red",
    StageStatus.INTERRUPTED: "yellow",
    StageStatus.PENDING: "dim",
}


def simple(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """A plain table; `right` names the columns of numbers."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def run_summary(record: RunRecord) -> RenderableType:
    """What `foundry run` ends with: the stages, the comparison, the gates, the endpoint."""
    parts: list[RenderableType] = [stages(record)]
    evaluated = record.stage("evaluation")
    if evaluated is not None and evaluated.outputs is not None:
        parts += ["", comparison_table(from_json(EvaluationReport, evaluated.outputs, what="report"))]
    served = record.stage("serving")
    if served is not None and served.outputs is not None:
        parts += ["", endpoint_line(from_json(Endpoint, served.outputs, what="endpoint"))]
    return Panel(Group(*parts), title=f"[bold]{record.run_id}[/bold]  {record.status.value}", title_align="left", border_style="dim", padding=(1, 2))


def stages(record: RunRecord) -> Table:
    """One line a stage: status, time, key."""
    rows = [
        (
            stage.name,
            Text(stage.status.value, style=_STATUS_STYLE[stage.status]),
            units.duration(stage.duration_s),
            stage.key[:12],
            stage.error or stage.reason,
        )
        for stage in record.stages
    ]
    table = simple("", ("stage", "status", "time", "key", ""), (), right=("time",))
    for name, status, time, key, why in rows:
        table.add_row(name, status, time, Text(key, style="dim"), Text(why, style="dim"))
    return table


def comparison_table(report: EvaluationReport) -> Table:
    """Teacher against student, with the gates."""
    table = simple("", (f"on {report.split}", "teacher", "student", "ratio", "gate"), (), right=("teacher", "student", "ratio"))
    for row in comparison.rows(report):
        mark = "" if row.passed is None else ("[green]pass[/green] " if row.passed else "[red]FAIL[/red] ")
        table.add_row(row.name, row.teacher, Text(row.student, style="bold"), row.ratio, f"{mark}{row.gate}")
    failed = "; ".join(f"{gate.name} is {gate.value:.4g}, wanted {gate.relation} {gate.limit:g}" for gate in report.gates if not gate.passed)
    verdict = "[green]all gates passed[/green]" if report.passed else "[red]a gate failed: the model is stored, the champion stays[/red]"
    why = f"\nfailed: {failed}" if failed else ""
    table.caption = f"{verdict}; this test split was opened {units.times(report.num_test_openings)}{why}"
    table.caption_justify = "left"
    return table


def endpoint_line(endpoint: Endpoint) -> Text:
    """Where the model answers."""
    text = Text("endpoint  ", style="bold")
    return text.append(
        f"{endpoint.url}  ({endpoint.app_name}:{endpoint.model_version}, {endpoint.num_replicas} replica(s), {endpoint.status})", style="cyan"
    )


def trials_table(study: StudyResult, chosen: Sequence[Trial], params: Sequence[str]) -> Table:
    """One line a trial: state, epochs, objectives, the parameters that matter, why it ended; `*` marks the front and `>` the winner."""
    metrics = [objective.metric for objective in study.objectives]
    names = [units.short(metric) for metric in metrics]
    table = simple(f"study {study.study_name}", ("#", "state", "epochs", *names, *params, "why"), (), right=("#", "epochs", *names, *params))
    for column in table.columns[:-1]:
        column.no_wrap = True
    for trial in chosen:
        mark = ">" if trial.number == study.chosen else ("*" if trial.number in study.pareto_front else " ")
        values = [units.value(metric, trial.values[metric]) if metric in trial.values else "-" for metric in metrics]
        shown = [_short(trial.params[name]) if name in trial.params else "" for name in params]
        style = "bold" if mark == ">" else ("" if trial.state in (TrialState.COMPLETE, TrialState.STOPPED) else "dim")
        cells = (f"{mark}{trial.number}", trial.state.value, str(trial.resource_used), *values, *shown, Text(why_ended(trial)))
        table.add_row(*cells, style=style)
    others = sorted({name for trial in chosen for name in trial.params} - set(params))
    more = f"; not shown: {', '.join(others)}" if others else ""
    table.caption = f"> chosen, * on the Pareto front; {', '.join(f'{count} {state}' for state, count in study.num_by_state.items() if count)}{more}"
    table.caption_justify = "left"
    return table


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
