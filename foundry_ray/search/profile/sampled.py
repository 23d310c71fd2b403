"""Students that stand for a space: points drawn at random, and those at its two ends, built and counted."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from foundry_ray import compression
from foundry_ray.compression.recipes import quantized_bits
from foundry_ray.errors import RecipeInfeasible, SearchSpaceError
from foundry_ray.protocols import Clock
from foundry_ray.search import points, relations
from foundry_ray.search.trial import TrialContext
from foundry_ray.search.trial.students import Students
from foundry_ray.types import Scalar, SearchSpace, Step

_MOST_LOTS = 10
_MOST_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A point of a space, built and counted.

    Attributes:
        bits: Of a stored weight.
        graph: Hash of its shapes and bits: students that share it are deployed as the same graph.
        identity: Hash of what it is and how it is trained: students that share it are the same trial.
    """

    params: Mapping[str, Scalar]
    num_params: int
    num_macs: int
    bits: int
    graph: str
    identity: str

    @property
    def size(self) -> tuple[int, int, int, str]:
        """What students are ordered by, the smallest first."""
        return (self.num_params, self.bits, self.num_macs, self.graph)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Students that stand for a space.

    Attributes:
        students: Drawn at random, the smallest first.
        smallest: That was found in the space, which hardly ever is one of those.
        largest: As `smallest`.
        num_impossible: Points whose recipe could not be carried out.
        num_wanted: Points that were to be drawn: the time was over before, or hardly any keeps the relations, where there are fewer.
    """

    students: Sequence[Sampled]
    smallest: Sampled
    largest: Sampled
    num_impossible: int
    num_wanted: int

    @property
    def median(self) -> Sampled:
        return self.students[len(self.students) // 2]

    @property
    def is_short(self) -> bool:
        return len(self.students) + self.num_impossible < self.num_wanted


def sample(context: TrialContext, space: SearchSpace, *, num_wanted: int, limit_s: float, clock: Clock) -> Sample:
    """Students at points drawn at random.

    Args:
        context: Its teacher is what they are made of, its seed draws the points.
        space: What they are points of.
        num_wanted: How many to draw; one that cannot be built takes a place.
        limit_s: Time after which no further one is drawn, and half of it for the search of each end.

    Raises:
        SearchSpaceError: None of them can be built.
    """
    workshop, students, num_impossible, reason = Students(context), list[Sampled](), 0, ""
    began_s = clock.monotonic_s()
    for point in _points(space, context.seed, num_wanted):
        try:
            students.append(_counted(workshop, context, point))
        except RecipeInfeasible as error:
            num_impossible, reason = num_impossible + 1, error.message
        if clock.monotonic_s() - began_s > limit_s:
            break
    if not students:
        message = f"none of {num_impossible} students of the space can be built, wanted one at least; of the last: {reason}"
        raise SearchSpaceError(message, hint="change the space, or the teacher that its students are made of.")
    students.sort(key=lambda one: one.size)
    ends = _Ends(workshop, context, space, clock)
    return Sample(
        students=students,
        smallest=ends.furthest(students[0], sign=-1, limit_s=limit_s / 2),
        largest=ends.furthest(students[-1], sign=1, limit_s=limit_s / 2),
        num_impossible=num_impossible,
        num_wanted=num_wanted,
    )


class _Ends:
    """Finds the smallest and the largest student: from the one of a sample, one parameter after another goes to whichever end leads on."""

    def __init__(self, workshop: Students, context: TrialContext, space: SearchSpace, clock: Clock) -> None:
        self._workshop = workshop
        self._context = context
        self._space = space
        self._relations = relations.of(space)
        self._clock = clock

    def furthest(self, start: Sampled, *, sign: int, limit_s: float) -> Sampled:
        """The smallest (`sign` -1) or largest (1) that is found from `start` within the time."""
        best, until_s = start, self._clock.monotonic_s() + limit_s
        for _ in range(_MOST_ROUNDS):
            before = best
            for change in self._changes():
                for other in self._moved(best, change):
                    if [sign * number for number in other.size[:3]] > [sign * number for number in best.size[:3]]:
                        best = other
                    if self._clock.monotonic_s() > until_s:
                        return best
            if best is before:
                break
        return best

    def _changes(self) -> Iterator[dict[str, Scalar]]:
        """Each parameter at each of its ends."""
        return ({param.name: value} for param in self._space.params for value in points.ends(param))

    def _moved(self, student: Sampled, change: Mapping[str, Scalar]) -> Iterator[Sampled]:
        """A student with another value; where that cannot be built, those with a second parameter at an end besides, which may not forbid it."""
        try:
            yield from self._built(student, change)
        except RecipeInfeasible:
            for second in self._changes():
                if not second.keys() & change.keys():
                    with contextlib.suppress(RecipeInfeasible):
                        yield from self._built(student, {**change, **second})

    def _built(self, student: Sampled, change: Mapping[str, Scalar]) -> Iterator[Sampled]:
        """A student with other values; nothing where that is no point of the space, or has the same shape. Raises RecipeInfeasible."""
        point = {**student.params, **change}
        if self._holds(point) and _shape(point) != _shape(student.params):
            yield _counted(self._workshop, self._context, point)

    def _holds(self, point: Mapping[str, Scalar]) -> bool:
        exist = all(points.is_active(param, point) == (param.name in point) for param in self._space.params)
        return exist and all(relation.holds(point) for relation in self._relations)


def _shape(point: Mapping[str, Scalar]) -> Sequence[Step]:
    """What a point does to the size of a model."""
    return [step for step in compression.recipe_from_params(point)[1].steps if step.kind not in ("distil", "runtime")]


def _points(space: SearchSpace, seed: int, count: int) -> Iterator[dict[str, Scalar]]:
    """So many points, or fewer where hardly any keeps the relations."""
    lots = (points.drawn(space, seed=seed + lot) for lot in range(_MOST_LOTS))
    return itertools.islice(itertools.chain.from_iterable(lots), count)


def _counted(workshop: Students, context: TrialContext, point: Mapping[str, Scalar]) -> Sampled:
    student = workshop.make(point, context.seed)
    counted = compression.cost(student.model, context.schema)
    return Sampled(
        params=point,
        num_params=counted.num_params,
        num_macs=counted.num_macs,
        bits=quantized_bits(student.recipe),
        graph=compression.effective(student.model, student.recipe),
        identity=student.identity,
    )
