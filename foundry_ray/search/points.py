"""Points of a search space: which parameters exist beside which, the ends of each, and points drawn at random that keep the relations.

For whoever looks at a space as a whole, before anything is tried: its checks and its profile. What is tried next is `samplers`' to say.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence

from foundry_ray.errors import SearchSpaceError
from foundry_ray.search import relations
from foundry_ray.types import Param, Scalar, SearchSpace

NUM_DRAWS = 2000
"""Points that are drawn to see whether any keeps all relations: what one in 2,000 keeps, a sampler finds too seldom to work with."""
_NUM_PROBES = 20
_WHERE = "search space"


def ends(param: Param) -> tuple[Scalar, ...]:
    """The lowest and the highest value of a range, or all choices."""
    if param.kind == "categorical":
        return param.choices
    cast_to = int if param.kind == "int" else float
    return tuple(cast_to(limit) for limit in limits(param))


def limits(param: Param) -> tuple[float, float]:
    """The range, its high end moved down onto the last step."""
    assert param.low is not None
    assert param.high is not None
    if not param.step:
        return param.low, param.high
    return param.low, round(param.low + _num_steps(param) * param.step, 12)


def is_active(param: Param, chosen: Mapping[str, Scalar]) -> bool:
    """Whether `param` exists beside these values: each of its conditions names a parameter that exists and has one of the values."""
    return all(name in chosen and chosen[name] in values for name, values in param.when.items())


def in_order(params: Sequence[Param], *, where: str = _WHERE) -> tuple[Param, ...]:
    """The parameters so that each comes after those that its `when` names.

    Raises:
        SearchSpaceError: The conditions go in a circle.
    """
    ordered: list[Param] = []
    left = list(params)
    while left:
        known = {param.name for param in ordered}
        ready = [param for param in left if set(param.when) <= known]
        if not ready:
            names = ", ".join(param.name for param in left)
            raise SearchSpaceError(
                f"{where}: the `when` of {names} go in a circle.", hint="let one of them stand without `when`.", param=left[0].name
            )
        ordered += ready
        left = [param for param in left if param not in ready]
    return tuple(ordered)


def corners(space: SearchSpace) -> Iterator[dict[str, Scalar]]:
    """Points at the rim: all parameters low, all high, and each end or choice of each parameter beside low ones. They may break relations."""
    params = in_order(space.params)
    by_name = {param.name: param for param in params}
    for pick in (0, -1):
        yield _filled(params, {param.name: ends(param)[pick] for param in params})
    low = {param.name: ends(param)[0] for param in params}
    for param in params:
        for value in ends(param)[1:]:
            yield _filled(params, {**low, **_conditions(param, by_name), param.name: value})


def probes(space: SearchSpace, *, seed: int = 0) -> Iterator[dict[str, Scalar]]:
    """Points that stand for the whole space in a check: those of its corners that keep all relations, and some drawn ones."""
    kept = relations.of(space)
    yield from (point for point in corners(space) if all(relation.holds(point) for relation in kept))
    yield from itertools.islice(drawn(space, seed=seed), _NUM_PROBES)


def drawn(space: SearchSpace, *, seed: int, num_draws: int = NUM_DRAWS) -> Iterator[dict[str, Scalar]]:
    """Points that keep all relations, out of `num_draws` that are drawn evenly (on the scale of each parameter); equal seeds give equal points."""
    params, kept = in_order(space.params), relations.of(space)
    source = random.Random(seed)
    for _ in range(num_draws):
        point = _drawn(params, source)
        if all(relation.holds(point) for relation in kept):
            yield point


def check_relations(space: SearchSpace, *, where: str, seed: int = 0) -> None:
    """See that a sampler can find a point that keeps all relations.

    Raises:
        SearchSpaceError: None of many does; the relation that is to blame is named, where it is a single one.
    """
    if next(drawn(space, seed=seed), None) is not None:
        return
    params, source = in_order(space.params), random.Random(seed)
    points = [_drawn(params, source) for _ in range(NUM_DRAWS)]
    never = [relation.text for relation in relations.of(space) if not any(map(relation.holds, points))]
    blamed = f"relation {never[0]!r} holds" if never else f"relations {', '.join(map(repr, space.relations))} hold together"
    message = f"{where}: {blamed} at none of {NUM_DRAWS:,} points drawn at random, wanted at some of them."
    raise SearchSpaceError(message, hint="loosen it, or change the ranges of its parameters.", param=(never or list(space.relations))[0])


def _filled(params: Sequence[Param], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The parameters that exist at these values."""
    point: dict[str, Scalar] = {}
    for param in params:
        if is_active(param, point):
            point[param.name] = values[param.name]
    return point


def _conditions(param: Param, by_name: Mapping[str, Param]) -> dict[str, Scalar]:
    """Values of others beside which `param` exists."""
    found: dict[str, Scalar] = {}
    for name, values in param.when.items():
        found |= {**_conditions(by_name[name], by_name), name: values[0]}
    return found


def _drawn(params: Sequence[Param], source: random.Random) -> dict[str, Scalar]:
    point: dict[str, Scalar] = {}
    for param in params:
        if is_active(param, point):
            point[param.name] = _value(param, source)
    return point


def _value(param: Param, source: random.Random) -> Scalar:
    if param.kind == "categorical":
        return source.choice(param.choices)
    low, high = limits(param)
    if param.step:
        value = round(low + source.randint(0, _num_steps(param)) * param.step, 12)
    elif param.log:
        margin = 0.5 if param.kind == "int" else 0.0
        value = min(max(math.exp(source.uniform(math.log(low - margin), math.log(high + margin))), low), high)
    elif param.kind == "int":
        return source.randint(int(low), int(high))
    else:
        value = source.uniform(low, high)
    return round(value) if param.kind == "int" else value


def _num_steps(param: Param) -> int:
    assert param.low is not None
    assert param.high is not None
    assert param.step is not None
    return math.floor((param.high - param.low) / param.step + 1e-9)
