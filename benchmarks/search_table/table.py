"""What a table of learning curves holds, how it is kept as a file, and its values as losses.

The file is JSON with a row to a line, so that a difference between two tables can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.record import ROOT
from foundry_ray.config import SearchConfig
from foundry_ray.search.space import load_space
from foundry_ray.types import Json, Scalar, SearchSpace, from_json, to_json

TABLES = ROOT / "benchmarks" / "tables"
FASHION = TABLES / "fashion_students.json"
SPACE = TABLES / "fashion_space.yaml"

Place = tuple[float, float, float]
"""Error, log latency and log bytes of a row after some epoch, each from 0 (the table's best) to 1 (its worst)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One student.

    Attributes:
        errors: 1 - accuracy on val after each epoch, of what would be shipped.
        latency_ms: p50, measured before training.
        seconds: Of one core, for all epochs.
        effective: Hash of the model as it really is, with the hyperparameters.
    """

    params: Mapping[str, Scalar]
    errors: tuple[float, ...]
    latency_ms: float
    latency_p95_ms: float
    size_bytes: int
    num_params: int
    num_macs: int
    seconds: float
    effective: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows with equally many epochs. `provenance` says how they were made."""

    provenance: Mapping[str, Json]
    rows: tuple[Row, ...]

    @property
    def num_epochs(self) -> int:
        """Of each row."""
        return len(self.rows[0].errors)

    @cached_property
    def places(self) -> tuple[tuple[Place, ...], ...]:
        """By row, then by epoch; best and worst are over all rows and epochs."""
        errors = _range(error for row in self.rows for error in row.errors)
        latencies = _range(math.log(row.latency_ms) for row in self.rows)
        sizes = _range(math.log(row.size_bytes) for row in self.rows)
        return tuple(
            tuple(
                (_share(error, errors), _share(math.log(row.latency_ms), latencies), _share(math.log(row.size_bytes), sizes)) for error in row.errors
            )
            for row in self.rows
        )


def _range(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)


def _share(value: float, span: tuple[float, float]) -> float:
    low, high = span
    return (value - low) / (high - low)


def space(path: Path = SPACE) -> SearchSpace:
    """What the table's rows are points of."""
    return load_space(str(path), SearchConfig())


def load(path: Path) -> Table:
    """Read a table."""
    document = json.loads(path.read_text())
    rows = tuple(from_json(Row, row, what=f"a row of {path.name}") for row in document["rows"])
    return Table(provenance=document["provenance"], rows=rows)


def save(table: Table, path: Path) -> None:
    """Write a table."""
    rows = ",\n".join(json.dumps(to_json(row)) for row in table.rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"provenance": {json.dumps(dict(table.provenance))},\n"rows": [\n{rows}\n]}}\n')
