"""What `foundry run --json` said of its stages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.record import foundry, timed
from foundry_ray.types import Json, from_json

_REJECTED = 3
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The stages of one command, by name."""

    found: Mapping[str, Mapping[str, Json]]

    @classmethod
    def run(cls, *arguments: str, env: Mapping[str, str], timeout_s: float, may_reject: bool = False) -> Stages:
        """`foundry run ARGUMENTS --json` to its end. `may_reject`: gates may say no."""
        done = timed(foundry("run", *arguments, "--json"), env=env, timeout_s=timeout_s)
        codes: Sequence[int] = (0, _REJECTED) if may_reject else (0,)
        assert done.code in codes, f"foundry run {' '.join(arguments)} ended with exit code {done.code}: {done.stdout[-2000:]}"
        return cls(found={stage["name"]: stage for stage in json.loads(done.stdout)["stages"]})

    def output(self, name: str, kind: type[T]) -> T:
        """What a stage made."""
        return from_json(kind, self.found[name]["outputs"], what=name)

    def minutes(self, name: str) -> float:
        """How long it took, by the clock on the wall."""
        return float(str(self.found[name]["duration_s"])) / 60
