"""Exports and measures students, each graph once, for as long as there is time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from foundry_ray import compression, models
from foundry_ray.protocols import Clock, LatencyMeter, RuntimeChoice
from foundry_ray.search.constraints import LATENCIES, Constraint
from foundry_ray.search.profile.sampled import Sampled
from foundry_ray.search.trial import TrialContext
from foundry_ray.search.trial.students import Students
from foundry_ray.types import CompressionRecipe, LatencyResult, ProfiledModel

_QUICK_S = 0.2
"""Of a measurement that only has to tell on which side of a limit a student is."""


class Bench:
    """Knows of students what was counted, exported or measured of them.

    Args:
        context: Its teacher is what they are made of, its first rows set the ranges of int8.
        meter: Measures for so many seconds a graph.
        budget_s: Of a measurement that is shown.

    Attributes:
        taken: Measurements so far.
        prepare_s: Seconds from a recipe to its latency, of the last student that was measured in full.
    """

    def __init__(self, context: TrialContext, meter: Callable[[float], LatencyMeter], *, budget_s: float, clock: Clock) -> None:
        self._context = context
        self._students = Students(context)
        self._meter = meter
        self._budget_s = budget_s
        self._clock = clock
        self._known: dict[str, dict[str, float]] = {}
        self.taken: list[LatencyResult] = []
        self.prepare_s = 0.0

    @property
    def device(self) -> str:
        """What was measured on, and how."""
        first = self.taken[0]
        return f"{first.device}, {first.runtime}, threads {first.threads}, batch {first.batch_size}"

    def values(self, student: Sampled) -> Mapping[str, float]:
        """All that is known of a student, by metric."""
        counted = {"num_params": float(student.num_params), "num_macs": float(student.num_macs)}
        return {**counted, **self._known.get(student.graph, {})}

    def model(self, student: Sampled) -> ProfiledModel:
        """A student in full."""
        began_s = self._clock.monotonic_s()
        self._look_at(student, budget_s=self._budget_s)
        self.prepare_s = self._clock.monotonic_s() - began_s
        return _profiled(self.values(student), student)

    def teacher(self) -> ProfiledModel:
        """The teacher in full."""
        teacher, schema = models.rebuild(self._context.teacher_description).eval(), self._context.schema
        counted = compression.cost(teacher, schema)
        onnx = compression.served(teacher, CompressionRecipe(), schema, self._context.calibration)
        values = {"num_params": counted.num_params, "num_macs": counted.num_macs, "size_bytes": len(onnx)}
        return _profiled({**values, **self._timed(onnx, self._budget_s)})

    def judge(self, students: Sequence[Sampled], limits: Sequence[Constraint], *, limit_s: float) -> None:
        """Find out what the limits ask of as many students as there is time for, in a random order."""
        metrics = {one.metric for one in limits}
        if not metrics & {"size_bytes", *LATENCIES}:
            return
        began_s = self._clock.monotonic_s()
        for student in random.Random(self._context.seed).sample(students, len(students)):
            if self._clock.monotonic_s() - began_s > limit_s:
                return
            if student.graph not in self._known:
                self._look_at(student, budget_s=_QUICK_S if metrics & set(LATENCIES) else None)

    def _look_at(self, student: Sampled, *, budget_s: float | None) -> None:
        made = self._students.make(student.params, self._context.seed)
        context = self._context
        onnx = compression.served(made.model, made.recipe, context.schema, context.calibration, given=context.given(context.seed))
        runtime = compression.runtime_of(made.recipe)
        self._known[student.graph] = {"size_bytes": float(len(onnx)), **(self._timed(onnx, budget_s, runtime) if budget_s else {})}

    def _timed(self, onnx: bytes, budget_s: float, runtime: RuntimeChoice | None = None) -> dict[str, float]:
        result = self._meter(budget_s).measure(onnx, batch_size=self._context.batch_size, runtime=runtime)
        self.taken.append(result)
        return dict(zip(LATENCIES, (result.p50_ms, result.p95_ms), strict=True))


def _profiled(values: Mapping[str, float], student: Sampled | None = None) -> ProfiledModel:
    return ProfiledModel(
        num_params=int(values["num_params"]),
        num_macs=int(values["num_macs"]),
        size_bytes=int(values["size_bytes"]),
        latency_p50_ms=values["latency_p50_ms"],
        latency_p95_ms=values["latency_p95_ms"],
        params=student.params if student else {},
    )
