"""How a study picks its winner, in words: `fastest within 1.0 point of the teacher`, `best under 5 ms and 1 MB`, `knee`.

Decides which trial is the answer, on val, and in which order others would be. Pure: trials in, numbers out. Where no trial keeps
what the policy asks for, the nearest one is chosen and the choice says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from foundry_ray.errors import ConfigError
from foundry_ray.search import pareto
from foundry_ray.types import Objective, Trial

_WITHIN = re.compile(r"^(fastest|smallest) within ([0-9]*\.?[0-9]+) points? of the teacher$")
_UNDER = re.compile(r"^best under (.+)$")
_LIMIT = re.compile(r"^([0-9]*\.?[0-9]+)\s*(ms|kB|KB|MB|B|params)$")
_UNITS: Mapping[str, tuple[str, float]] = {
    "ms": ("latency_p50_ms", 1.0),
    "B": ("size_bytes", 1.0),
    "kB": ("size_bytes", 1e3),
    "KB": ("size_bytes", 1e3),
    "MB": ("size_bytes", 1e6),
    "params": ("num_params", 1.0),
}
_HINT = "write `fastest within 1.0 point of the teacher`, `smallest within 1.0 point of the teacher`, `best under 5 ms and 1 MB` or `knee`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen trial; `warning` is empty unless nobody kept what the policy asks for."""

    number: int
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A parsed policy.

    Attributes:
        kind: What is best among those that keep the limits.
        text: As the user wrote it.
        within: Largest allowed distance to the teacher's accuracy, as a ratio.
        limits: Largest allowed value by metric.
    """

    kind: Literal["fastest", "smallest", "best", "knee"]
    text: str
    within: float = math.inf
    limits: Mapping[str, float] = field(default_factory=dict)

    def rank(self, trials: Sequence[Trial], objectives: Sequence[Objective], *, teacher_accuracy: float) -> list[int]:
        """Numbers of the trials that have an accuracy, the one to choose first."""
        known = [trial for trial in trials if "accuracy" in trial.values]
        if self.kind == "knee":
            return _by_knee(known, objectives)
        return [trial.number for trial in sorted(known, key=lambda trial: (self._excess(trial, teacher_accuracy), *self._taste(trial), trial.number))]

    def choose(self, trials: Sequence[Trial], objectives: Sequence[Objective], *, teacher_accuracy: float) -> Choice | None:
        """The best by `rank`; with a warning where it exceeds a limit, and None where there is no trial."""
        ranking = self.rank(trials, objectives, teacher_accuracy=teacher_accuracy)
        if not ranking:
            return None
        chosen = next(trial for trial in trials if trial.number == ranking[0])
        if self.kind == "knee" or not self._excess(chosen, teacher_accuracy):
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

    def _taste(self, trial: Trial) -> tuple[float, ...]:
        values = trial.values
        ranked = {
            "fastest": (
                Objective(metric="latency_p50_ms", mode="min"),
                Objective(metric="accuracy", mode="max"),
                Objective(metric="size_bytes", mode="min"),
            ),
            "smallest": (Objective(metric="size_bytes", mode="min"), Objective(metric="accuracy", mode="max")),
            "best": (
                Objective(metric="accuracy", mode="max"),
                Objective(metric="latency_p50_ms", mode="min"),
                Objective(metric="size_bytes", mode="min"),
            ),
        }
        return pareto.losses(values, ranked[self.kind])

    def _gap(self, trial: Trial, teacher_accuracy: float) -> str:
        values = trial.values
        said = [] if math.isinf(self.within) else [f"accuracy {values['accuracy']:.4f} against the teacher's {teacher_accuracy:.4f} on val"]
        said += [f"{metric} is {values.get(metric, math.nan):g}, wanted <= {limit:g}" for metric, limit in self.limits.items()]
        return ", ".join(said)


def parse_policy(text: str) -> Policy:
    """Read `search.choose`. Raises ConfigError for anything that is not one of the forms above."""
    words = " ".join(text.split())
    if words == "knee":
        return Policy(kind="knee", text=words)
    if found := _WITHIN.match(words):
        kind: Literal["fastest", "smallest"] = "fastest" if found[1] == "fastest" else "smallest"
        return Policy(kind=kind, text=words, within=float(found[2]) / 100)
    if found := _UNDER.match(words):
        return Policy(kind="best", text=words, limits=_limits(found[1], text))
    raise ConfigError(f"search.choose is {text!r}, which is no policy.", hint=_HINT)


def _limits(words: str, text: str) -> dict[str, float]:
    limits: dict[str, float] = {}
    for part in words.split(" and "):
        found = _LIMIT.match(part.strip())
        if not found or float(found[1]) <= 0:
            raise ConfigError(f"search.choose is {text!r}: {part.strip()!r} is no limit in ms, B, kB, MB or params.", hint=_HINT)
        metric, scale = _UNITS[found[2]]
        if metric in limits:
            raise ConfigError(f"search.choose is {text!r}, which limits {metric} twice.", hint=_HINT)
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
