"""The smaller tables: what `list`, `show`, `plan`, `schema` and `doctor` print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml
from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from foundry_ray.reporting.profile import profile_table
from foundry_ray.reporting.tables import simple
from foundry_ray.types import Endpoint, Finding, Json, Plan, PlannedTraining, RunRecord

_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_ACTION_STYLE = {"reused": "cyan", "resumed": "yellow", "run": "green", "skipped": "dim"}


def runs_table(records: Sequence[RunRecord]) -> Table:
    """One line a run."""
    rows = [(record.run_id, record.status.value, record.started_at, record.ended_at or "-", record.source) for record in records]
    return simple("", ("run", "status", "started", "ended", "pipeline"), rows)


def endpoints_table(found: Sequence[Endpoint]) -> Table:
    """One line an endpoint."""
    rows = [
        (endpoint.app_name, f"{endpoint.app_name}:{endpoint.model_version}", endpoint.url, str(endpoint.num_replicas), endpoint.status)
        for endpoint in found
    ]
    return simple("", ("endpoint", "model", "url", "replicas", "status"), rows, right=("replicas",))


def predictions_table(answers: Sequence[Json]) -> Table:
    """One line an input."""
    columns = list(answers[0]) if answers and isinstance(answers[0], dict) else []
    rows = [[_shown(answer[column]) for column in columns] for answer in answers if isinstance(answer, dict)]
    return simple("", columns, rows)


def _shown(value: Json) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def plan_table(plan: Plan) -> RenderableType:
    """The stages, how the teacher would be trained, the whole configuration with every default, and the profile of the space where there is one."""
    table = simple(f"plan of {plan.pipeline}", ("stage", "action", "key", "why"), ())
    for stage in plan.stages:
        table.add_row(stage.name, Text(stage.action, style=_ACTION_STYLE[stage.action]), Text(stage.key[:12], style="dim"), stage.reason)
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in plan.warnings]
    resolved = yaml.safe_dump(plan.config, sort_keys=False, default_flow_style=None, width=110)
    return Group(
        table,
        "",
        training_line(plan.training),
        *warnings,
        Text("\nresolved configuration", style="bold"),
        Syntax(resolved, "yaml", background_color="default", word_wrap=True),
        *([profile_table(plan.profile)] if plan.profile else []),
    )


def training_line(training: PlannedTraining) -> Text:
    """Who trains, on what, in which shape and how long, in two lines."""
    sharding = "" if training.zero_stage is None else f", ZeRO {training.zero_stage}"
    workers = f"{training.num_workers} worker{'s' if training.num_workers > 1 else ''}"
    fewest = f" (down to {training.min_workers})" if training.min_workers < training.num_workers else ""
    passes = f" x {training.accumulation} passes" if training.accumulation > 1 else ""
    shape = f"{workers}{fewest} x {training.micro_batch_size} samples{passes} = {training.batch_size} a step"
    steps = "steps are known once the data is prepared"
    if training.num_steps is not None:
        steps = f"{training.steps_per_epoch} steps an epoch, {training.num_steps} in all"
    text = Text("training  ", style="bold")
    return text.append(f"{training.engine}{sharding}: {shape}\n          precision {training.precision}; {steps}", style="not bold cyan")


def findings_table(findings: Sequence[Finding]) -> Table:
    """One line a check: mark, detail, fix."""
    table = simple("", ("", "what", "found", "fix"), ())
    for finding in findings:
        mark = "[green]ok[/green]" if finding.is_ok else ("[dim]-[/dim]" if finding.is_optional else "[red]NO[/red]")
        table.add_row(mark, finding.name, Text(finding.detail), Text("" if finding.is_ok else finding.fix))
    return table


def schema_table(schema: Json) -> Table:
    """Every key with its type, default and meaning."""
    assert isinstance(schema, dict)
    table = simple("", ("key", "type", "default", "what it is"), ())
    for row in _schema_rows(schema, schema, ""):
        table.add_row(*map(Text, row))
    return table


def _schema_rows(root: dict[str, Json], node: dict[str, Json], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    properties = node.get("properties")
    assert isinstance(properties, dict)
    for name, spec in properties.items():
        assert isinstance(spec, dict)
        reference = spec.get("$ref")
        target = _resolve(root, reference) if isinstance(reference, str) else spec
        if "properties" in target:
            yield from _schema_rows(root, target, f"{prefix}{name}.")
        else:
            default = spec.get("default", "required")
            yield f"{prefix}{name}", _type_name(target), str(default), str(spec.get("description", ""))


def _resolve(root: dict[str, Json], reference: str) -> dict[str, Json]:
    definitions = root["$defs"]
    assert isinstance(definitions, dict)
    found = definitions[reference.rpartition("/")[2]]
    assert isinstance(found, dict)
    return found


def _type_name(spec: dict[str, Json]) -> str:
    """With the range, where there is one: `integer >= 1`."""
    choices = spec.get("enum")
    if isinstance(choices, list):
        return " | ".join(str(choice) for choice in choices)
    options = spec.get("anyOf")
    if isinstance(options, list):
        return " | ".join(_type_name(option) for option in options if isinstance(option, dict))
    limits = ", ".join(f"{sign} {spec[key]:,}".replace(",", "_") for key, sign in _LIMITS.items() if isinstance(spec.get(key), (int, float)))
    return f"{spec.get('const', spec.get('type', ''))} {limits}".strip()
