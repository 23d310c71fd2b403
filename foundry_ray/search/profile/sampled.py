"""Students that stand for a space: points drawn at random, built and counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from foundry_ray import compression
from foundry_ray.compression.recipes import quantized_bits
from foundry_ray.errors import RecipeInfeasible, SearchSpaceError
from foundry_ray.protocols import Clock
from foundry_ray.search import points
from foundry_ray.search.trial import TrialContext
from foundry_ray.search.trial.students import Students
from foundry_ray.types import Scalar, SearchSpace

_MOST_LOTS = 10


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
        students: The smallest first.
        num_impossible: Points whose recipe could not be carried out.
        num_wanted: Points that were to be drawn: the time was over before, or hardly any keeps the relations, where there are fewer.
    """

    students: Sequence[Sampled]
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
        limit_s: Time after which no further one is built.

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
    return Sample(students=sorted(students, key=lambda one: one.size), num_impossible=num_impossible, num_wanted=num_wanted)


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
