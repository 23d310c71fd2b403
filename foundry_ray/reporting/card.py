"""MODEL_CARD.md: what a model is, what it can and how to serve it, for people who have the folder and not the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.reporting import units
from foundry_ray.reporting.markdown import HEADING, SERVING, latency_rows, markdown_table
from foundry_ray.reporting.models import facts
from foundry_ray.types import EvaluationReport, MetricValue, ModelReport

if TYPE_CHECKING:
    from foundry_ray.registry import ModelCard


def write_card(card: ModelCard, path: Path) -> None:
    """Write the card as Markdown, over the one that was published with the model, where there is one."""
    published = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(card_markdown(card, published), encoding="utf-8")


def card_markdown(card: ModelCard, published: str = "") -> str:
    """The card as Markdown.

    Args:
        card: What the registry knows.
        published: The card that was published with the model (`model_card`); empty where it has none.
    """
    entry = card.entry
    parts = [f"{HEADING}{entry.name}:{entry.version}", "", *(f"> **Warning:** {warning}\n" for warning in card.warnings)]
    parts += ["## What it is", "", *markdown_table(("", ""), facts(card)), ""]
    if card.evaluation is not None:
        parts += _evaluation(card.evaluation)
    if published.startswith(HEADING):
        parts.append(published.partition("\n")[2].lstrip("\n"))
    else:
        parts += ["## How to serve it", "", SERVING]
    return "\n".join(parts)


def _evaluation(report: EvaluationReport) -> Iterator[str]:
    yield from (f"## What it measured on {report.split}", "")
    yield f"Fingerprint of the data: `{report.dataset_fingerprint}`; its test split was opened {units.times(report.num_test_openings)}."
    yield from ("", *markdown_table(("metric", "teacher", "this model"), _metrics(report)), "", "Intervals hold 95 %.", "")
    yield from ("## Gates", "", *markdown_table(("gate", "value", "wanted", ""), _gates(report)), "")
    yield from ("## Latency", "", *markdown_table(("model", "p50", "p95", "measured"), _latencies(report)), "")
    yield from (
        "## Size against the teacher",
        "",
        *markdown_table(("", "teacher", "this model", "ratio"), _sizes(report.teacher, report.student)),
        "",
    )


def _metrics(report: EvaluationReport) -> Iterator[tuple[str, ...]]:
    for name, metric in report.student.metrics.items():
        theirs = report.teacher.metrics.get(name)
        yield name, _interval(name, theirs) if theirs else "", _interval(name, metric)
    yield "same answer as the teacher", "", _interval("accuracy", report.agreement)


def _gates(report: EvaluationReport) -> Iterator[tuple[str, ...]]:
    for gate in report.gates:
        yield gate.name, f"{gate.value:.4g}", f"{gate.relation} {gate.limit:g}", "passed" if gate.passed else "FAILED"


def _latencies(report: EvaluationReport) -> Iterator[tuple[str, ...]]:
    for side, model in (("teacher", report.teacher), ("this model", report.student)):
        yield from ((side, *row) for row in latency_rows(model.latency))


def _sizes(teacher: ModelReport, student: ModelReport) -> Iterator[tuple[str, ...]]:
    rows = (
        ("parameters", teacher.num_params, student.num_params, units.si_count),
        ("MACs", teacher.num_macs, student.num_macs, units.si_count),
        ("served file", teacher.size_bytes, student.size_bytes, units.si_bytes),
    )
    for name, theirs, ours, form in rows:
        yield name, form(theirs), form(ours), f"{units.ratio(theirs, ours)} less"


def _interval(name: str, metric: MetricValue) -> str:
    return f"{units.value(name, metric.value)} [{units.value(name, metric.ci_low)}, {units.value(name, metric.ci_high)}] (n {metric.n})"
