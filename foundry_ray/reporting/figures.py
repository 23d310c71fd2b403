"""The report's figures, as inline SVG through matplotlib: learning curves, and the trials with their front."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foundry_ray.types import StudyResult, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _TEACHER, _STUDENT, _FRONT = "#1f2933", "#9aa5b1", "#52606d", "#0b69a3", "#de3a11"


def learning_curves(teacher: Sequence[Mapping[str, float]], student: Sequence[Mapping[str, float]]) -> str:
    """Validation accuracy over epochs of both models."""
    figure, axes = _figure("Validation accuracy while training", "epoch", "accuracy")
    for name, curve, colour in (("teacher", teacher, _TEACHER), ("student", student, _STUDENT)):
        values = [point["accuracy"] for point in curve]
        epochs = [point.get("epoch", index + 1) for index, point in enumerate(curve)]
        axes.plot(epochs, values, color=colour, linewidth=1.8, label=name)
        if values:
            axes.annotate(f"{name} {values[-1]:.3f}", (epochs[-1], values[-1]), xytext=(0, 7), textcoords="offset points", color=colour, ha="center")
    _zoom(axes, [point["accuracy"] for curve in (teacher, student) for point in curve])
    return _svg(figure)


def trial_curves(study: StudyResult) -> str:
    """One line a trial: how far each came before it was stopped."""
    figure, axes = _figure("Trials: validation accuracy at their epochs", "epoch", "accuracy")
    for trial in study.trials:
        points = [(point["epoch"], point["accuracy"]) for point in trial.curve if "epoch" in point and "accuracy" in point]
        if not points:
            continue
        colour, width = (_FRONT, 1.8) if trial.number == study.chosen else (_STUDENT if trial.number in study.pareto_front else _FAINT, 1.0)
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=width, marker="o", markersize=3)
    _zoom(axes, [point["accuracy"] for trial in study.trials for point in trial.curve if "accuracy" in point])
    return _svg(figure)


def front(study: StudyResult) -> str:
    """Accuracy against latency; the area of a point is its served size; the front is joined."""
    figure, axes = _figure("Trials and their Pareto front", "p50 latency, ms (log)", "validation accuracy")
    measured = [trial for trial in study.trials if {"accuracy", "latency_p50_ms", "size_bytes"} <= set(trial.values)]
    best = [trial for trial in measured if trial.number in study.pareto_front]
    _scatter(axes, [trial for trial in measured if trial not in best], _FAINT, "other trials")
    _scatter(axes, best, _STUDENT, "on the front")
    _scatter(axes, [trial for trial in measured if trial.number == study.chosen], _FRONT, "chosen")
    if measured:
        _log_axis(axes)
        axes.legend(frameon=False, loc="lower right", fontsize=8)
    return _svg(figure)


def _log_axis(axes: Axes) -> None:
    """A logarithmic x axis whose ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _scatter(axes: Axes, trials: Sequence[Trial], colour: str, label: str) -> None:
    if not trials:
        return
    x = [trial.values["latency_p50_ms"] for trial in trials]
    y = [trial.values["accuracy"] for trial in trials]
    areas = [20 + trial.values["size_bytes"] / 4096 for trial in trials]
    axes.scatter(x, y, s=areas, color=colour, alpha=0.85, linewidths=0, label=label)
    for trial, at_x, at_y in zip(trials, x, y, strict=True):
        axes.annotate(str(trial.number), (at_x, at_y), xytext=(5, 5), textcoords="offset points", fontsize=7, color=colour)


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.margins(x=0.06)
    return figure, axes


def _zoom(axes: Axes, values: Sequence[float]) -> None:
    """Show the range where curves differ: the early epochs may leave the picture."""
    if values:
        top, typical = max(values), sorted(values)[len(values) // 4]
        axes.set_ylim(max(0.0, min(typical, top - 0.05)), min(1.01, top + 0.015))


def _svg(figure: Figure) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "foundry"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
