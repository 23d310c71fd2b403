"""The profile of a search space, for the terminal: students beside their teacher, constraints, effort, warnings."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from foundry_ray.reporting import units
from foundry_ray.reporting.tables import simple
from foundry_ray.types import ProfiledModel, Reach, SpaceProfile, StudyEffort

_SHARE_STYLE = {"all": "green", "some": "green", "none": "bold red", "unknown": "dim"}
_HOUR_S = 3600
_WIDTH = 12
_NUMBERS = ("parameters", "MACs", "served", "p50", "p95", "smaller", "faster")


def profile_table(profile: SpaceProfile) -> RenderableType:
    """What a space comes to, on a screen."""
    return Group(
        Text("\nprofile of the search space", style="bold"),
        _models(profile),
        *(_line(name, _params(model), "dim") for name, model in _named(profile)),
        _line("students", _sample(profile)),
        *(_line("constraint", *_reach(one)) for one in profile.reaches),
        *(_line("" if number else "effort", sentence) for number, sentence in enumerate(_effort(profile.effort))),
        _line("measured", f"latency on {profile.device}; an epoch on {profile.train_device}; all with random weights and pixels", "dim"),
        *(Text(f"warning: {warning}", style="yellow") for warning in profile.warnings),
    )


def _named(profile: SpaceProfile) -> Iterator[tuple[str, ProfiledModel]]:
    """The students, the largest first."""
    yield from (("largest", profile.largest), ("median", profile.median), ("smallest", profile.smallest))


def _models(profile: SpaceProfile) -> Table:
    table = simple("", ("", *_NUMBERS), (), right=_NUMBERS)
    teacher = profile.teacher
    for name, model in (("teacher", teacher), *_named(profile)):
        is_teacher = model is teacher
        table.add_row(
            Text(f"{name:<{_WIDTH - 2}}", style="bold"),
            units.si_count(model.num_params),
            units.si_count(model.num_macs),
            units.si_bytes(model.size_bytes),
            f"{model.latency_p50_ms:.3f} ms",
            f"{model.latency_p95_ms:.3f} ms",
            "" if is_teacher else units.ratio(teacher.size_bytes, model.size_bytes),
            "" if is_teacher else units.ratio(teacher.latency_p50_ms, model.latency_p50_ms),
        )
    return table


def _params(model: ProfiledModel) -> str:
    return ", ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in model.params.items())


def _sample(profile: SpaceProfile) -> str:
    graphs = f"{profile.num_graphs} different graph{'s' if profile.num_graphs != 1 else ''}"
    said = f"{profile.num_sampled} at random: {graphs}, {profile.num_duplicates} the same as an earlier one"
    impossible = f", {profile.num_impossible} more impossible" if profile.num_impossible else ""
    feasible = f", {profile.num_feasible} of {profile.num_judged} keep all limits" if profile.reaches else ""
    return f"{said}{impossible}{feasible}"


def _reach(reach: Reach) -> tuple[str, str]:
    """The sentence and its style."""
    style = _SHARE_STYLE[reach.share]
    if reach.nearest is None:
        return f"{reach.constraint}: known after training", style
    metric = reach.constraint.split()[0]
    nearest = units.value(metric, reach.nearest)
    if reach.share == "some" and not reach.num_kept:
        return f"{reach.constraint}: kept by none of {reach.num_known}, and yet by one at the end of the space, with {nearest}", style
    how_many = {"all": "all", "some": f"{reach.num_kept}", "none": "none"}[reach.share]
    way = "down" if "<" in reach.constraint else "up"
    return f"{reach.constraint}: kept by {how_many} of {reach.num_known}, and the space goes {way} to {nearest}", style


def _effort(effort: StudyEffort) -> Iterator[str]:
    yield f"of {effort.num_trials} trials about {effort.num_trained:.0f} are trained, {effort.epochs_per_trial:.1f} epochs each"
    if effort.epoch_s is None or effort.worker_hours is None:
        return
    yield f"an epoch of the median student takes {units.duration(effort.epoch_s)}, to build and measure one {units.duration(effort.prepare_s)}"
    work = units.duration(_HOUR_S * effort.worker_hours)
    workers = f"{effort.num_workers} worker{'s' if effort.num_workers != 1 else ''}"
    hours = "shared by the workers of the cluster" if effort.hours is None else f"about {units.duration(_HOUR_S * effort.hours)} with {workers}"
    cost = f"; cost {effort.cost:.2f} at {effort.price:g} a worker-hour" if effort.cost else ""
    yield f"in all {work} of work, {hours}{cost}"


def _line(name: str, text: str, style: str = "") -> Text:
    return Text(f"{name:<{_WIDTH}}", style="bold").append(text, style=f"not bold {style}".strip())
