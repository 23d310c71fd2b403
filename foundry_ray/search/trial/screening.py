"""What is known of a student before it is trained, and whether it is worth training: what it costs, its bytes, its latency.

Channel counts and bits are fixed before the first step, so these hold for the trained student too. A recipe that breaks a hard constraint costs
no training step, and neither does one that makes the model smaller and not faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from foundry_ray import compression
from foundry_ray.errors import BadRecord, ConfigError, RecipeInfeasible
from foundry_ray.protocols import LatencyMeter, RuntimeChoice
from foundry_ray.search import constraints as limits
from foundry_ray.search import pareto
from foundry_ray.search.events import Event, Job
from foundry_ray.search.trial.place import Place
from foundry_ray.search.trial.students import Student
from foundry_ray.types import LatencyResult, Objective

_COSTS = ("num_params", "num_macs", "size_bytes")
_LATENCY = Objective(metric="latency_p50_ms", mode="min")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What is known so far; `graph` is the hash of the deployed graph, once it was measured, and `is_noisy` says how."""

    values: Mapping[str, float]
    graph: str = ""
    is_noisy: bool = False


class Screening:
    """Measures the students of one study, on one device.

    Args:
        meter: Keeps what it has measured, the teacher's latency too.

    Attributes:
        device: Fingerprint of what it measures on.
    """

    def __init__(self, place: Place, meter: LatencyMeter) -> None:
        self._context = place.context
        self._phases = place.phases
        self._reporter = place.reporter
        self._meter = meter
        self.device = meter.device_fingerprint()
        self._teachers: dict[RuntimeChoice, LatencyResult] = {}

    def screened(self, job: Job, student: Student) -> Event:
        """`prepared`, or why the student is not trained: `infeasible`, `dominated`."""
        event = Event(kind="prepared", number=job.number, device=self.device)
        for seen in self._measurements(job, student):
            event = replace(event, values=seen.values, graph=seen.graph)
            refused = self._refused(student, seen)
            if refused is not None:
                return replace(event, kind=refused.kind, excess=refused.excess, error=refused.error)
        return replace(event, effective=student.identity)

    def measured(self, job: Job, student: Student) -> Event:
        """What is known of it on this device, and what is wrong with it here, if anything is."""
        *_, seen = self._measurements(job, student)
        event = Event(kind="measured", number=job.number, values=seen.values, graph=seen.graph, device=self.device)
        refused = self._refused(student, seen)
        return event if refused is None else replace(event, excess=refused.excess, error=refused.error)

    def _measurements(self, job: Job, student: Student) -> Iterator[_Seen]:
        """Cost, then bytes, then latency: cheapest first, and each only when it is asked for."""
        context = self._context
        with self._phases.within("count"):
            counted = compression.cost(student.model, context.schema)
        values = {"num_params": float(counted.num_params), "num_macs": float(counted.num_macs)}
        yield _Seen(values=values)
        with self._phases.within("export"):
            onnx = compression.served(student.model, student.recipe, context.schema, context.calibration, given=context.given(student.seed))
        values = {**values, "size_bytes": float(len(onnx))}
        yield _Seen(values=values)
        try:
            result = self._measured(onnx, compression.runtime_of(student.recipe), f"trial {job.number}")
        except (BadRecord, ConfigError) as error:
            message = f"its runtime cannot run the file of trial {job.number}: {error.message}"
            raise RecipeInfeasible(message, hint="choose another `runtime`.", recipe="runtime", reason=error.message) from error
        values = {**values, "latency_p50_ms": result.p50_ms, "latency_p95_ms": result.p95_ms}
        yield _Seen(values=values, graph=result.graph_sha256, is_noisy=result.is_noisy)

    def _refused(self, student: Student, seen: _Seen) -> Event | None:
        """Why a student of which this is known is no candidate. Dominance counts only where latency is wanted: elsewhere, smaller is better.

        A measurement that was not quiet dominates nobody: the student may be as fast as it should be.
        """
        broken = limits.excesses(self._context.constraints, seen.values)
        if broken:
            return Event(kind="infeasible", excess=sum(broken.values()), error=limits.explain(self._context.constraints, seen.values))
        if not seen.graph or seen.is_noisy or not any(metric.endswith("_ms") for metric in self._context.objectives):
            return None
        teacher = self._teacher_latency(compression.runtime_of(student.recipe))
        reason = "" if teacher.is_noisy else dominance(seen.values, {**self._context.teacher_cost, "latency_p50_ms": teacher.p50_ms})
        excess = max(seen.values["latency_p50_ms"] / teacher.p50_ms - 1, 1e-9)
        return Event(kind="dominated", excess=excess, error=reason) if reason else None

    def _teacher_latency(self, student: RuntimeChoice) -> LatencyResult:
        """In the default runtime or in the student's, whichever is faster: a student is worth its training if it beats whatever the teacher could do.

        Each is measured once in this process, and once on each kind of device where the meter keeps what it has measured; again after noise. A
        runtime that cannot run the teacher's file makes it no faster.
        """
        found = []
        for choice in dict.fromkeys((RuntimeChoice(), student)):
            if choice not in self._teachers or self._teachers[choice].is_noisy:
                try:
                    self._teachers[choice] = self._measured(self._context.teacher_onnx, choice, "the teacher")
                except (BadRecord, ConfigError):
                    if choice == RuntimeChoice():
                        raise
                    continue
            found.append(self._teachers[choice])
        return min(found, key=lambda result: (not result.is_noisy, result.p50_ms))

    def _measured(self, onnx: bytes, choice: RuntimeChoice, whose: str) -> LatencyResult:
        with self._phases.within("latency"):
            result = self._meter.measure(onnx, batch_size=self._context.batch_size, runtime=choice)
        if result.is_noisy:
            low, high = result.ci_ms
            self._reporter.warn(
                f"the latency of {whose} is noisy: its median lies in {low:.3f}-{high:.3f} ms although it was measured twice; "
                "who is faster than the teacher is left open by it."
            )
        return result


def dominance(values: Mapping[str, float], teacher: Mapping[str, float]) -> str:
    """Why a student is no candidate: it is smaller than the teacher, and not faster. Empty where it is one.

    Latencies that differ by less than the floor of the runtime are equal. Where the teacher itself takes no longer than that, nobody can be seen to
    be faster, and nobody is judged by it.
    """
    smaller = [f"{metric} {values[metric]:g} of {teacher[metric]:g}" for metric in _COSTS if values[metric] < teacher[metric]]
    (mine,), (other,) = (pareto.losses(one, (_LATENCY,)) for one in (values, teacher))
    if not smaller or mine < other or other <= pareto.LATENCY_FLOOR_MS:
        return ""
    return (
        f"smaller than the teacher ({', '.join(smaller)}) and not faster: latency_p50_ms is {values['latency_p50_ms']:g}, "
        f"wanted less than the teacher's {teacher['latency_p50_ms']:g} in steps of {pareto.LATENCY_FLOOR_MS:g} ms"
    )
