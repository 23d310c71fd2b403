"""How a study picks its winner, in words: `fastest within 1.0 point of the teacher and under 1 MB`, `best under 5 ms p95`, `knee`.

Decides which trial is the answer, on val, and in which order others would be. Pure: trials in, numbers out. Where no trial keeps
what the policy asks for, the nearest one is chosen and the choice says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from foundry_ray.errors import ConfigError, NoFeasibleTrial
from foundry_ray.search import constraints, pareto
from foundry_ray.types import Objective, StudyResult, Trial, TrialState

Kind = Literal["fastest", "smallest", "best", "knee", "trial"]
_FORM = re.compile(r"(fastest|smallest|most accurate|best|knee)(?: within ([0-9]*\.?[0-9]+) points? of the teacher)?(?:(?: and)? under (.+))?")
_NUMBER = re.compile(r"trial ([0-9]{1,9})")
_LIMIT = re.compile(r"([0-9]*\.?[0-9]+) ?(ms(?: p50| p95)?|[kKM]?B|[kM]? ?params|[kM]? ?MACs)")
_UNITS: Mapping[str, tuple[str, float]] = {
    "ms": ("latency_p50_ms", 1.0),
    "ms p50": ("latency_p50_ms", 1.0),
    "ms p95": ("latency_p95_ms", 1.0),
    **{f"{prefix}B": ("size_bytes", scale) for prefix, scale in (("", 1.0), ("k", 1e3), ("K", 1e3), ("M", 1e6))},
    **{f"{prefix}params": ("num_params", scale) for prefix, scale in (("", 1.0), ("k", 1e3), ("M", 1e6))},
    **{f"{prefix}MACs": ("num_macs", scale) for prefix, scale in (("", 1.0), ("k", 1e3), ("M", 1e6))},
}
_HINT = (
    "write `fastest within 1.0 point of the teacher`, `smallest within 1.0 point of the teacher and under 100k params`, `best under 5 ms and 1 MB`, "
    "`best under 5 ms p95`, `most accurate`, `knee` or `trial 7`."
)
_NO_LIMIT = {
    "fastest": "the fastest student of all may have learnt nothing",
    "smallest": "the smallest student of all may have learnt nothing",
    "best": "without one, write `most accurate`",
}
_LOST = (TrialState.FAILED, TrialState.INFEASIBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen trial; `warning` is empty unless it is less than what the policy asks for."""

    number: int
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A parsed policy.

    Attributes:
        kind: What is best among those that keep the limits; `trial` prefers the one that it names.
        text: As the user wrote it.
        within: Largest allowed distance to the teacher's accuracy, as a ratio.
        limits: Largest allowed value by metric.
        number: The trial that is named; -1 where none is.
    """

    kind: Kind
    text: str
    within: float = math.inf
    limits: Mapping[str, float] = field(default_factory=dict)
    number: int = -1

    def rank(self, trials: Sequence[Trial], objectives: Sequence[Objective], *, teacher_accuracy: float) -> list[int]:
        """Numbers of the trials that could be chosen, the first choice first: they have an accuracy, and are neither lost nor marked dominated."""
        known = [trial for trial in trials if "accuracy" in trial.values and not trial.dominated and trial.state not in _LOST]
        place: dict[int, tuple[float, ...]]
        if self.kind in ("knee", "trial"):
            place = {number: (float(index),) for index, number in enumerate(_by_knee(known, objectives))}
        else:
            place = {trial.number: self._taste(trial, objectives) for trial in known}

        def preference(trial: Trial) -> tuple[float, ...]:
            return (trial.number != self.number, self._excess(trial, teacher_accuracy), *place[trial.number], trial.number)

        return [trial.number for trial in sorted(known, key=preference)]

    def choose(self, trials: Sequence[Trial], objectives: Sequence[Objective], *, teacher_accuracy: float) -> Choice | None:
        """The best by `rank`; with a warning where it exceeds a limit or is not the one that is named, and None where there is no trial."""
        ranking = self.rank(trials, objectives, teacher_accuracy=teacher_accuracy)
        if not ranking:
            return None
        chosen = next(trial for trial in trials if trial.number == ranking[0])
        if not self._excess(chosen, teacher_accuracy) and self.number in (-1, chosen.number):
            return Choice(number=chosen.number)
        return Choice(
            number=chosen.number,
            warning=f"no finished trial is {self.text!r}; trial {chosen.number} comes nearest: {self._gap(chosen, teacher_accuracy)}.",
        )

    def _excess(self, trial: Trial, teacher_accuracy: float) -> float:
        values = trial.values
        drop = 0.0 if math.isinf(self.within) else max(0.0, teacher_accuracy - values["accuracy"] - self.within - 1e-9)
        over = sum(max(0.0, values.get(metric, math.inf) / limit - 1) for metric, limit in self.limits.items())
        return drop + over

    def _taste(self, trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...]:
        """The losses that are compared, one after another. The study's objectives come last, so that of equals none is dominated."""
        latency = next((one for one in objectives if one.metric.startswith("latency_")), Objective(metric="latency_p50_ms", mode="min"))
        accuracy, size = Objective(metric="accuracy", mode="max"), Objective(metric="size_bytes", mode="min")
        order = {"fastest": (latency, accuracy, size), "smallest": (size, accuracy, latency), "best": (accuracy, latency, size)}
        return pareto.losses(trial.values, (*order[self.kind], *objectives))

    def _gap(self, trial: Trial, teacher_accuracy: float) -> str:
        values = trial.values
        said = [] if math.isinf(self.within) else [f"accuracy {values['accuracy']:.4f} against the teacher's {teacher_accuracy:.4f} on val"]
        said += [f"{metric} is {values.get(metric, math.nan):g}, wanted <= {limit:g}" for metric, limit in self.limits.items()]
        return ", ".join(said) or "it is the knee"


def parse_policy(text: str, *, key: str = "search.choose") -> Policy:
    """Read a policy, the value of `key`. Raises ConfigError for anything that is not one of the forms above."""
    words = " ".join(text.split())
    if found := _NUMBER.fullmatch(words):
        return Policy(kind="trial", text=words, number=int(found[1]))
    found = _FORM.fullmatch(words)
    if not found:
        raise ConfigError(f"{key} is {text!r}, which is no policy.", hint=_HINT)
    what, points, under = found.groups()
    limits = _limits(under, text, key) if under else {}
    if what in ("fastest", "smallest", "best") and not limits and points is None:
        raise ConfigError(f"{key} is {text!r}, which says no limit: {_NO_LIMIT[what]}.", hint=_HINT)
    kind = cast(Kind, "best" if what == "most accurate" else what)
    return Policy(kind=kind, text=words, within=math.inf if points is None else float(points) / 100, limits=limits)


def choose_again(study: StudyResult, policy: Policy, limits: Sequence[constraints.Constraint], *, teacher_accuracy: float) -> Choice:
    """Which trial of a finished study another policy chooses.

    Trials that were trained to the last rung come first. Where none of them keeps what the policy asks for, a member of the front that was stopped
    before may: it is told by what it was then.

    Args:
        study: What was found.
        policy: What is wanted now.
        limits: The hard constraints of the study; who breaks one is never chosen.
        teacher_accuracy: On val.

    Raises:
        ConfigError: The policy names a trial that was neither finished nor on the front, or that breaks a constraint.
        NoFeasibleTrial: No trial can be chosen.
    """
    allowed = [trial for trial in study.trials if not trial.dominated and not constraints.excesses(limits, trial.values)]
    complete = [trial for trial in allowed if trial.state is TrialState.COMPLETE]
    stopped = [trial for trial in allowed if trial.state is TrialState.STOPPED and trial.number in study.pareto_front]
    if policy.kind == "trial":
        _check_number(study, policy.number, [*complete, *stopped])
    choice = policy.choose(complete, study.objectives, teacher_accuracy=teacher_accuracy)
    if choice is None or choice.warning:
        wider = policy.choose([*complete, *stopped], study.objectives, teacher_accuracy=teacher_accuracy)
        if wider is not None and (choice is None or not wider.warning):
            choice = replace(wider, warning=wider.warning or _as_of_then(study, wider.number))
    if choice is None:
        raise NoFeasibleTrial(
            f"none of the {len(study.trials)} trials of {study.study_name} can be chosen: none that has an accuracy keeps all constraints.",
            hint="`foundry trials RUN` says of each why not.",
            num_trials=len(study.trials),
            closest="",
        )
    return choice


def _as_of_then(study: StudyResult, number: int) -> str:
    trial = next(trial for trial in study.trials if trial.number == number)
    return (
        f"trial {number} was stopped after {trial.resource_used} epochs, and is judged by what it was then."
        if trial.state is not TrialState.COMPLETE
        else ""
    )


def _check_number(study: StudyResult, number: int, candidates: Sequence[Trial]) -> None:
    if any(trial.number == number for trial in candidates):
        return
    front = ", ".join(str(one) for one in study.pareto_front)
    known = next((trial for trial in study.trials if trial.number == number), None)
    why = (
        f"it is {known.state.value}{f': {known.error}' if known.error else ''}" if known else f"the study has the trials 0 to {len(study.trials) - 1}"
    )
    message = f"trial {number} cannot be chosen: {why.rstrip('.')}; wanted one that was trained to the end, or one of the front: {front}."
    raise ConfigError(message, hint="`foundry trials RUN --pareto` shows the front.")


def _limits(words: str, text: str, key: str) -> dict[str, float]:
    limits: dict[str, float] = {}
    for part in words.split(" and "):
        found = _LIMIT.fullmatch(part.strip().removeprefix("under "))
        if not found or float(found[1]) <= 0:
            raise ConfigError(f"{key} is {text!r}: {part.strip()!r} is no limit in ms, ms p95, B, kB, MB, params or MACs.", hint=_HINT)
        metric, scale = _UNITS[found[2] if found[2].startswith("ms") else found[2].replace(" ", "")]
        if metric in limits:
            raise ConfigError(f"{key} is {text!r}, which limits {metric} twice.", hint=_HINT)
        limits[metric] = float(found[1]) * scale
    return limits


def _by_knee(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[int]:
    """Layer by layer; inside a layer the nearest to the ideal point, coordinates scaled to their range."""
    points = [pareto.losses(trial.values, objectives) for trial in trials]
    ranked: list[int] = []
    for layer in pareto.layers(points):
        inside = pareto.scaled([points[index] for index in layer])
        ranked += [trials[index].number for _, index in sorted((math.hypot(*point), index) for point, index in zip(inside, layer, strict=True))]
    return ranked
