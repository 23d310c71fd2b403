"""Syne Tune's MOASHA with its own random proposals on a table, told the same losses as everybody. Benchmarks install it; the package never does.

Its scheduler is asked as its tuner would: `suggest`, then `on_trial_result` after each epoch, until it says stop. The settings are those of its
documentation's example, and its defaults.

In release 0.16.0 its NonDominatedPriority answers with the numbers of the trials in their order, and its caller takes these for the rank of each
trial; so who is stopped has little to do with who is worse. `ranked` hands it ranks, through its own argument `multiobjective_priority`: what its
authors mean, and the harder peer.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from datetime import datetime
from typing import Any

from benchmarks.record import work_folder
from benchmarks.search_table.candidates import Candidates
from benchmarks.search_table.points import levels
from benchmarks.search_table.table import Table
from foundry_ray.search import pareto
from foundry_ray.types import Param, SearchSpace

VERSION = "0.16.0"
_PACKAGES = (f"syne-tune=={VERSION}", "dill==0.4.0", "sortedcontainers==2.4.0")
_METRICS = ("error", "log_latency", "log_bytes")
_TIMEOUT_S = 600.0


def install() -> None:
    """Fetch it where it is not."""
    folder = work_folder("search_peers")
    if not (folder / "syne_tune").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *_PACKAGES]
        subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def trained(table: Table, space: SearchSpace, *, ranked: bool, seed: int, max_epochs: int) -> list[tuple[int, int]]:
    """(row, epoch) in the order of training."""
    import numpy as np

    install()
    spaces: Any = importlib.import_module("syne_tune.config_space")
    moasha: Any = importlib.import_module("syne_tune.optimizer.schedulers.multiobjective.moasha")
    trials: Any = importlib.import_module("syne_tune.backend.trial_status")
    np.random.seed(seed)  # its domains draw from numpy's global state
    scheduler = moasha.MOASHA(
        {param.name: _domain(spaces, param) for param in space.params},
        metrics=list(_METRICS),
        time_attr="epoch",
        max_t=table.num_epochs,
        grace_period=1,
        reduction_factor=3,
        multiobjective_priority=_ranks if ranked else None,
        random_seed=seed,
    )
    candidates = Candidates(space, table.rows)
    seen: list[tuple[int, int]] = []
    for number in range(len(table.rows)):
        trial = trials.Trial(trial_id=number, config=candidates.take(scheduler.suggest().config), creation_time=datetime.min)
        scheduler.on_trial_add(trial)
        row = candidates.number(trial.config)
        for epoch in range(1, table.num_epochs + 1):
            seen.append((row, epoch))
            losses = dict(zip(_METRICS, table.places[row][epoch - 1], strict=True))
            if scheduler.on_trial_result(trial, {"epoch": epoch, **losses}) == "STOP":
                break
        if len(seen) >= max_epochs:
            break
    return seen


def _ranks(objectives: Any) -> Any:
    """Place of each point in MO-ASHA's order."""
    import numpy as np

    return np.argsort(pareto.order(objectives.tolist()))


def _domain(spaces: Any, param: Param) -> Any:
    if param.kind == "categorical":
        return spaces.choice(list(param.choices))
    if param.kind == "int" or param.step:
        return spaces.choice(levels(param))
    return (spaces.loguniform if param.log else spaces.uniform)(param.low, param.high)
