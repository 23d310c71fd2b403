"""The report's figures, as inline SVG through matplotlib: learning curves, the trials with their front, what the work gained, what mattered."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from foundry_ray.types import StudyProgress, StudyResult, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from foundry_ray.compression.analysis import Analysis
    from foundry_ray.search.importance import Importance

_INK, _FAINT, _TEACHER, _STUDENT, _FRONT = "#1f2933", "#9aa5b1", "#52606d", "#0b69a3", "#de3a11"
_SERIES = ("#0b69a3", "#de3a11", "#9aa5b1", "#147d64")
_MOST_NUMBERED = 100
_SMALLEST_SHARE = 0.01
_COSTS = {
    "latency_p50_ms": ("latency", "p50 latency, ms", 1.0),
    "latency_p95_ms": ("p95 latency", "p95 latency, ms", 1.0),
    "size_bytes": ("size", "served file, KiB", 1024.0),
    "num_params": ("parameters", "parameters", 1.0),
    "num_macs": ("MACs", "million MACs", 1e6),
}


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


def costs(study: StudyResult) -> tuple[str, ...]:
    """What a study weighs accuracy against, for a view each."""
    return tuple(objective.metric for objective in study.objectives if objective.metric in _COSTS)


def front(study: StudyResult, metric: str) -> str:
    """Accuracy against one of `costs`. The front is that of all objectives: in one view a member may seem dominated."""
    figure, axes = _figure(f"Trials and their Pareto front: accuracy and {_COSTS[metric][0]}", f"{_COSTS[metric][1]} (log)", "validation accuracy")
    measured = [trial for trial in study.trials if {"accuracy", metric} <= set(trial.values)]
    best = [trial for trial in measured if trial.number in study.pareto_front]
    _scatter(axes, [trial for trial in measured if trial not in best], metric, _FAINT, "other trials")
    _scatter(axes, best, metric, _STUDENT, "on the front")
    _scatter(axes, [trial for trial in measured if trial.number == study.chosen], metric, _FRONT, "chosen")
    if measured:
        _log_axis(axes)
        figure.legend(frameon=False, loc="outside lower left", ncols=3, fontsize=8)  # inside it would hide trials
    return _svg(figure)


def hypervolume(history: Sequence[StudyProgress]) -> str:
    """What the work gained: hypervolume of all values so far over the hours of all workers."""
    scale, unit = (3600.0, "hours") if history[-1].worker_seconds >= 3600 else (60.0, "minutes")
    figure, axes = _figure("Hypervolume over the work", f"worker-{unit}", "share of the box up to the worst values")
    axes.step(
        [point.worker_seconds / scale for point in history], [point.hypervolume for point in history], where="post", color=_STUDENT, linewidth=1.8
    )
    last = history[-1]
    axes.annotate(
        f"{last.hypervolume:.3f}",
        (last.worker_seconds / scale, last.hypervolume),
        xytext=(0, 5),
        textcoords="offset points",
        color=_INK,
        fontsize=8,
        ha="right",
    )
    axes.set_ylim(bottom=0.0)
    return _svg(figure)


def importances(found: Sequence[Importance]) -> str:
    """Bars: of each parameter its share, objective by objective."""
    told = [one for one in found if one.shares]
    names = sorted({name for one in told for name in one.shares}, key=lambda name: -sum(one.shares.get(name, 0.0) for one in told))[::-1]
    figure, axes = _figure("Which parameters mattered", "share of what tells the best trials from the rest", "")
    height = 0.8 / max(1, len(told))
    for index, one in enumerate(told):
        places = [place + 0.4 - height * (index + 0.5) for place in range(len(names))]
        axes.barh(places, [one.shares.get(name, 0.0) for name in names], height=0.9 * height, color=_SERIES[index % len(_SERIES)], label=one.metric)
    axes.set_yticks(range(len(names)), names)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    return _svg(figure)


def anatomy(analysis: Analysis) -> str:
    """Bars: of each layer its share of parameters, work and time. Beside them: what accuracy is left where a share of one group alone is cut."""
    from matplotlib.figure import Figure

    layers = [layer for layer in analysis.layers if layer.num_params or (layer.latency_ratio or 0.0) >= _SMALLEST_SHARE][::-1]
    figure = Figure(figsize=(11.0, max(3.8, 0.2 * len(layers) + 1.2)), layout="constrained")
    bars, lines = figure.subplots(1, 2)
    _style(bars, "Where parameters, work and time lie", "share of the model", "")
    shares = (
        ("parameters", [layer.num_params / max(1, analysis.num_params) for layer in layers]),
        ("MACs", [layer.num_macs / max(1, analysis.num_macs) for layer in layers]),
        ("time", [layer.latency_ratio or 0.0 for layer in layers]),
    )
    for index, (name, values) in enumerate(shares):
        bars.barh([place + 0.27 * (1 - index) for place in range(len(layers))], values, height=0.25, color=_SERIES[index], label=name)
    bars.set_yticks(range(len(layers)), [layer.name or layer.kind for layer in layers], fontsize=6)
    bars.legend(frameon=False, fontsize=8)
    _sensitivity_lines(lines, analysis)
    return _svg(figure)


def _sensitivity_lines(axes: Axes, analysis: Analysis) -> None:
    """A line a group; those that lose most in colour."""
    _style(axes, "What each group of channels can lose alone", "share of the group that is cut", "accuracy before training")
    curves: dict[str, list[tuple[float, float]]] = {}
    for one in analysis.sensitivities:
        if one.how == "prune":
            curves.setdefault(one.name, [(0.0, analysis.accuracy or 0.0)]).append((one.ratio, one.accuracy))
    worst = sorted(curves, key=lambda name: min(accuracy for _, accuracy in curves[name]))[: len(_SERIES)]
    for name, points in curves.items():
        colour = _SERIES[worst.index(name)] if name in worst else "#cbd2d9"
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, linewidth=1.4, label=name if name in worst else None)
    if curves:
        axes.legend(frameon=False, fontsize=7)


def _log_axis(axes: Axes) -> None:
    """A logarithmic x axis whose ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _scatter(axes: Axes, trials: Sequence[Trial], metric: str, colour: str, label: str) -> None:
    if not trials:
        return
    x = [trial.values[metric] / _COSTS[metric][2] for trial in trials]
    y = [trial.values["accuracy"] for trial in trials]
    axes.scatter(x, y, s=28, color=colour, alpha=0.85, linewidths=0, label=label)
    for trial, at_x, at_y in zip(trials, x, y, strict=True) if len(trials) <= _MOST_NUMBERED else ():
        axes.annotate(str(trial.number), (at_x, at_y), xytext=(5, 5), textcoords="offset points", fontsize=7, color=colour)


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    _style(axes, title, x, y)
    return figure, axes


def _style(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.margins(x=0.06)


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
