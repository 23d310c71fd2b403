"""A process that trains one trial after another: each begins as if it were the first.

What a user's model or optimizer may have switched in between is put back: the switches of `switches`, torch's global hooks, the three generators,
warnings, the environment, the folder. What it cannot undo, such as a function that was replaced, is why a worker is recycled now and then.
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foundry_ray.runtime.env import remembered, restore_env
from foundry_ray.search.switches import SWITCHES
from foundry_ray.secrecy import Variables

_GLOBAL_HOOKS = ("torch.nn.modules.module", "torch.optim.optimizer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """How a process was when `taken`; `begin` puts it back so."""

    switches: Mapping[str, object]
    hooks: Mapping[tuple[str, str], Mapping[object, object]]
    filters: tuple[object, ...]
    show_warning: Callable[..., object]
    variables: Variables
    folder: Path

    @classmethod
    def taken(cls) -> Isolation:
        """The process as it is now."""
        return cls(
            switches={name: read() for name, (read, _) in SWITCHES.items()},
            hooks={place: dict(found) for place, found in _hooks()},
            filters=tuple(warnings.filters),
            show_warning=warnings.showwarning,
            variables=remembered(),
            folder=Path.cwd(),
        )

    def begin(self, seed: int) -> None:
        """Put everything back, and seed the generators of Python, numpy and torch with `seed`."""
        os.chdir(self.folder)
        restore_env(self.variables)
        warnings.resetwarnings()  # which makes modules forget what they have warned of
        warnings.filters.extend(self.filters)  # type: ignore[attr-defined]  # the stub calls it a Sequence
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch advises against half of its own switches
            self._switch_back()
        warnings.showwarning = self.show_warning  # type: ignore[assignment]  # what the library holds, and no other
        _seed(seed)

    def _switch_back(self) -> None:
        for place, found in _hooks():
            found.clear()
            found.update(self.hooks.get(place, {}))
        torch.set_flush_denormal(False)  # torch does not say how it is; so it is in a new process
        for name, (_, write) in SWITCHES.items():
            write(self.switches[name])


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """What happens inside begins with these seeds, and leaves the process as it was, generators included."""
    before, python, numbers = Isolation.taken(), random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        _seed(seed)
        try:
            yield
        finally:
            before.begin(seed)
            random.setstate(python)
            np.random.set_state(numbers)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _hooks() -> Iterator[tuple[tuple[str, str], dict[object, object]]]:
    """What torch calls for every module and every optimizer of the process, by where it is kept."""
    for module in _GLOBAL_HOOKS:
        for name, found in vars(sys.modules[module]).items():
            if name.startswith("_global_") and isinstance(found, dict):
                yield (module, name), found
