"""Quasi-random points of a space, and a synthetic table over them for trying things out without training."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import count

from benchmarks.search_table.table import Row, Table
from foundry_ray.types import Param, Scalar, SearchSpace, canonical_sha256

_NUM_EPOCHS = 9


def quasi_random(space: SearchSpace, *, seed: int) -> Iterator[dict[str, Scalar]]:
    """Endless points that fill the space evenly: an additive recurrence with the generalised golden ratio, shifted at random by the seed."""
    params, source = space.params, random.Random(seed)
    ratio = 2.0
    for _ in range(64):  # the positive root of x^(d+1) = x + 1
        ratio = (1 + ratio) ** (1 / (len(params) + 1))
    shifts = [source.random() for _ in params]
    for number in count(1):
        shares = [(shift + number * ratio**-place) % 1.0 for place, shift in enumerate(shifts, 1)]
        yield {param.name: at(param, share) for param, share in zip(params, shares, strict=True)}


def at(param: Param, share: float) -> Scalar:
    """The value at a share, in [0, 1), of a parameter's range."""
    if param.kind == "categorical":
        return param.choices[int(share * len(param.choices))]
    if param.step or param.kind == "int":
        values = levels(param)
        return values[int(share * len(values))]
    assert param.low is not None
    assert param.high is not None
    if param.log:
        return float(param.low * (param.high / param.low) ** share)
    return float(param.low + share * (param.high - param.low))


def levels(param: Param) -> list[Scalar]:
    """The values of a parameter that has steps or is whole."""
    assert param.low is not None
    assert param.high is not None
    step = param.step or 1.0
    values = [round(param.low + number * step, 12) for number in range(math.floor((param.high - param.low) / step + 1e-9) + 1)]
    return [int(value) for value in values] if param.kind == "int" else [*values]


def synthetic(space: SearchSpace, *, num_rows: int, seed: int) -> Table:
    """Students by formula, over the parameters of the table's space: larger ones are better, slower and bigger, and some learn badly."""
    source = random.Random(seed)
    points = quasi_random(space, seed=seed)
    rows = tuple(_student(next(points), source) for _ in range(num_rows))
    return Table(provenance={"made": "by formula", "seed": seed}, rows=rows)


def _student(params: dict[str, Scalar], source: random.Random) -> Row:
    kept = 1 - float(params["prune_ratio"])
    num_params = int(90 * float(params["width"]) ** 2 * float(params["depth"]) * kept**1.5) + 500
    is_int8 = params["weight_bits"] == 8
    miss = math.log10(float(params["lr"]) / 3e-3) ** 2
    floor = 0.09 + 0.5 / math.sqrt(num_params) * 10 + 0.03 * miss + 0.01 * is_int8
    pace = 1.2 / (1 + 3 * miss)
    noise = 0.003
    errors = tuple(min(0.9, floor + 0.5 * math.exp(-pace * epoch) + source.gauss(0, noise)) for epoch in range(1, _NUM_EPOCHS + 1))
    latency_ms = (0.02 + num_params * 2e-6) * (0.45 if is_int8 else 1.0) * source.uniform(0.97, 1.03)
    return Row(
        params=params,
        errors=errors,
        latency_ms=latency_ms,
        latency_p95_ms=1.1 * latency_ms,
        size_bytes=4_000 + num_params * (1 if is_int8 else 4),
        num_params=num_params,
        num_macs=200 * num_params,
        seconds=0.0,
        effective=canonical_sha256(dict(params)),
    )
