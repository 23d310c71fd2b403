"""A process that trains one trial after another: each begins as if it were the first.

What a user's model or optimizer may have switched in between is put back: torch's global switches, global hooks, the three generators, numpy's
answer to bad numbers, warnings, the environment, the folder. Decides: what counts as the state of a process. What it cannot undo, such as a
function that was replaced, is why a worker is recycled now and then.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foundry_ray.runtime.env import remembered, restore_env
from foundry_ray.secrecy import Variables

Switch = tuple[Callable[[], Any], Callable[[Any], object]]
"""How one is read, and how it is set."""

_GLOBAL_HOOKS = ("torch.nn.modules.module", "torch.optim.optimizer")
_FP32_OPERATIONS = (
    ("generic", "all"),
    ("cuda", "all"),
    ("cuda", "matmul"),
    ("cuda", "conv"),
    ("cuda", "rnn"),
    ("mkldnn", "all"),
    ("mkldnn", "matmul"),
    ("mkldnn", "conv"),
    ("mkldnn", "rnn"),
)


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
            switches={name: read() for name, (read, _) in _SWITCHES.items()},
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
        for name, (_, write) in _SWITCHES.items():
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


def _attribute(owner: object, name: str) -> Switch:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _autocast(device: str) -> dict[str, Switch]:
    return {
        f"autocast {device}": (lambda: torch.is_autocast_enabled(device), lambda value: torch.set_autocast_enabled(device, value)),
        f"autocast {device} dtype": (lambda: torch.get_autocast_dtype(device), lambda value: torch.set_autocast_dtype(device, value)),
    }


def _nesting() -> int:
    """How many autocast regions are open: torch keeps cast weights until the last one closes."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _leave_autocast(wanted: int) -> None:
    while _nesting() > wanted:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()


def _to_default_device(wanted: torch.device) -> None:
    """Not even to the same one where nothing was set: torch would look at each of its functions from then on."""
    if torch.get_default_device() != wanted:
        torch.set_default_device(None)
    if torch.get_default_device() != wanted:
        torch.set_default_device(wanted)


def _fp32(backend: str, operation: str) -> Switch:
    return (
        lambda: torch._C._get_fp32_precision_getter(backend, operation),
        lambda value: torch._C._set_fp32_precision_setter(backend, operation, value),
    )


_cuda, _cudnn, _mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
_SWITCHES: Mapping[str, Switch] = {
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, _to_default_device),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "fill memory": _attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
    "anomaly mode": (lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()), lambda value: torch.set_anomaly_enabled(*value)),
    "autocast nesting": (_nesting, _leave_autocast),
    "autocast cache": (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    **_autocast("cpu"),
    **_autocast("cuda"),
    "cudnn": _attribute(_cudnn, "enabled"),
    "cudnn benchmark": _attribute(_cudnn, "benchmark"),
    "cudnn deterministic": _attribute(_cudnn, "deterministic"),
    "mkldnn": _attribute(_mkldnn, "enabled"),
    "mkldnn deterministic": _attribute(_mkldnn, "deterministic"),
    "fp16 sums": _attribute(_cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    "bf16 sums": _attribute(_cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    "flash attention": (_cuda.flash_sdp_enabled, _cuda.enable_flash_sdp),
    "lean attention": (_cuda.mem_efficient_sdp_enabled, _cuda.enable_mem_efficient_sdp),
    "plain attention": (_cuda.math_sdp_enabled, _cuda.enable_math_sdp),
    "cudnn attention": (_cuda.cudnn_sdp_enabled, _cuda.enable_cudnn_sdp),
    "fast encoder": (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),  # before the ones by operation, which it sets
    "cudnn tf32": (torch._C._get_cudnn_allow_tf32, torch._C._set_cudnn_allow_tf32),
    **{f"fp32 {backend} {operation}": _fp32(backend, operation) for backend, operation in _FP32_OPERATIONS},
    "kind of global hooks": _attribute(sys.modules["torch.nn.modules.module"], "_global_is_full_backward_hook"),
    "garbage": (gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    "numpy errors": (np.geterr, lambda value: np.seterr(**value)),
}
