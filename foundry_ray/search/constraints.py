"""Hard limits on a trial, written as `"num_params <= 80000"`: parse them, and say by how much values break them."""

from __future__ import annotations

import difflib
import operator
import re
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
    return Constraint(metric=metric, relation=cast(Literal["<=", ">=", "<", ">"], relation), limit=float(limit))


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


def reach(constraint: Constraint, found: Sequence[tuple[Mapping[str, Scalar], Mapping[str, float]]]) -> Reach:
    """How many of some students, given as parameters and what is known of each, keep a constraint, and which goes furthest its way."""
    known = [(values[constraint.metric], params) for params, values in found if constraint.metric in values]
    if not known:
        return Reach(constraint=str(constraint), share="unknown", num_known=0, num_kept=0)
    furthest = min if constraint.relation in ("<=", "<") else max
    value, params = furthest(known, key=lambda one: one[0])
    num_kept = sum(constraint.excess(value) == 0 for value, _ in known)
    share: Literal["all", "some", "none"] = "none" if not num_kept else "all" if num_kept == len(known) else "some"
    return Reach(constraint=str(constraint), share=share, num_known=len(known), num_kept=num_kept, nearest=value, params=params)


def explain(constraints: Sequence[Constraint], values: Mapping[str, float]) -> str:
    """The broken constraints with the values that break them, as one phrase."""
    broken = [one for one in constraints if one.metric in values and one.excess(values[one.metric]) > 0]
    return ", ".join(f"{one.metric} is {values[one.metric]:g}, wanted {one.relation} {one.limit:g}" for one in broken)
