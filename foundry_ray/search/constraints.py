"""Hard limits on a trial, written as `"num_params <= 80000"`: parse them, and say by how much values break them."""

from __future__ import annotations

import difflib
import itertools
import math
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from foundry_ray.errors import SearchSpaceError, UnknownKey
from foundry_ray.types import Reach, Scalar

LATENCIES = ("latency_p50_ms", "latency_p95_ms")
METRICS = ("accuracy", *LATENCIES, "size_bytes", "num_params", "num_macs")
"""What a trial reports; all but accuracy are known before its first training step."""

_FORM = re.compile(r"^\s*([A-Za-z_][A-Za-z0-9_]*)\s*(<=|>=|<|>)\s*([-+]?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)\s*$")
_HOLDS: Mapping[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """`metric relation limit`, for example `num_params <= 80000`."""

    metric: str
    relation: Literal["<=", ">=", "<", ">"]
    limit: float

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.limit:g}"

    def excess(self, value: float) -> float:
        """By how much `value` breaks the limit, as a share of it; 0.0 where it holds."""
        if _HOLDS[self.relation](value, self.limit):
            return 0.0
        return max(abs(value - self.limit) / max(abs(self.limit), 1e-12), 1e-9)


def parse(text: str, *, where: str) -> Constraint:
    """Read one constraint.

    Raises:
        SearchSpaceError: The text has not the form `metric <= number`.
        UnknownKey: No trial reports such a metric; the nearest one is named.
    """
    found = _FORM.match(text)
    if not found:
        raise SearchSpaceError(
            f"{where}: constraint {text!r} has not the form `metric <= number`.", hint='write it as "num_params <= 80000".', param=text
        )
    metric, relation, limit = found.groups()
    check_metric(metric, where=where)
    check_reachable(metric, relation, float(limit), what=f"{where}: {text.strip()!r}")
    return Constraint(metric=metric, relation=cast(Literal["<=", ">=", "<", ">"], relation), limit=float(limit))


def parse_all(texts: Sequence[str], *, where: str) -> tuple[Constraint, ...]:
    """Read constraints that are to hold together.

    Raises:
        SearchSpaceError: As `parse`; or two of them leave no value for their metric.
        UnknownKey: As `parse`.
    """
    parsed = tuple(parse(text, where=where) for text in texts)
    for least, most in itertools.product(parsed, parsed):
        if least.metric == most.metric and least.relation.startswith(">") and most.relation.startswith("<") and not _overlap(least, most):
            message = f"{where}: no value of {least.metric} keeps both '{least}' and '{most}'."
            raise SearchSpaceError(message, hint="remove one of them, or change its number.", param=least.metric)
    return parsed


def check_reachable(metric: str, relation: str, limit: float, *, what: str) -> None:
    """Raise SearchSpaceError where no value of a metric is on the right side of a limit: accuracies go from 0 to 1, all else is above 0."""
    lowest, highest = (0.0, 1.0) if metric == "accuracy" else (sys.float_info.min, math.inf)
    if any(_HOLDS[relation](end, limit) for end in (lowest, highest)):
        return
    range_ = "from 0 to 1" if metric == "accuracy" else "above 0"
    hint = f"write {limit / 100:g}." if metric == "accuracy" and 1 < limit <= 100 else "change the number, or remove it."
    raise SearchSpaceError(f"{what} can be kept by no trial: {metric} is a number {range_}.", hint=hint, param=metric)


def _overlap(least: Constraint, most: Constraint) -> bool:
    return least.limit < most.limit or (least.limit == most.limit and (least.relation, most.relation) == (">=", "<="))


def check_metric(metric: str, *, where: str) -> None:
    """Raise UnknownKey unless a trial reports this metric."""
    if metric in METRICS:
        return
    near = difflib.get_close_matches(metric, METRICS, n=1, cutoff=0.3)
    hint = f"did you mean `{near[0]}`?" if near else f"a trial reports {', '.join(METRICS)}."
    raise UnknownKey(
        f"{where}: {metric} is no metric of a trial; these are {', '.join(METRICS)}.", hint=hint, key=metric, nearest=near[0] if near else None
    )


def excesses(constraints: Sequence[Constraint], values: Mapping[str, float]) -> dict[str, float]:
    """The broken ones among those whose metric is known: text -> share by which it is broken."""
    found = {str(one): one.excess(values[one.metric]) for one in constraints if one.metric in values}
    return {text: excess for text, excess in found.items() if excess > 0}


Known = Sequence[tuple[Mapping[str, Scalar], Mapping[str, float]]]
"""Students, as parameters and what is known of each."""


def reach(constraint: Constraint, found: Known, *, ends: Known = ()) -> Reach:
    """How many of some students keep a constraint; and which goes furthest its way, among them and those at the `ends` of the space."""
    known, at_ends = ([(values[constraint.metric], params) for params, values in some if constraint.metric in values] for some in (found, ends))
    if not known:
        return Reach(constraint=str(constraint), share="unknown", num_known=0, num_kept=0)
    furthest = min if constraint.relation in ("<=", "<") else max
    value, params = furthest([*known, *at_ends], key=lambda one: one[0])
    num_kept, num_at_ends = (sum(constraint.excess(value) == 0 for value, _ in some) for some in (known, at_ends))
    is_all = num_kept == len(known) and num_at_ends == len(at_ends)
    share: Literal["all", "some", "none"] = "all" if is_all else "some" if num_kept or num_at_ends else "none"
    return Reach(constraint=str(constraint), share=share, num_known=len(known), num_kept=num_kept, nearest=value, params=params)


def explain(constraints: Sequence[Constraint], values: Mapping[str, float]) -> str:
    """The broken constraints with the values that break them, as one phrase."""
    broken = [one for one in constraints if one.metric in values and one.excess(values[one.metric]) > 0]
    return ", ".join(f"{one.metric} is {values[one.metric]:g}, wanted {one.relation} {one.limit:g}" for one in broken)
