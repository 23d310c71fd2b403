"""A process that has run trials is as good as a new one."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode

from foundry_ray.search.isolation import Isolation, isolated

PROGRAM = Path(__file__).parent / "_hostile.py"


@pytest.fixture
def before() -> Iterator[Isolation]:
    """The process as it was; put back in any case, since what a broken test leaves is everybody's."""
    with warnings.catch_warnings():
        taken = Isolation.taken()
        yield taken
        taken.begin(0)


def _started(mode: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(PROGRAM), mode], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_trial_after_hostile_ones_is_the_trial_of_a_new_process_bit_for_bit(tmp_path: Path) -> None:
    processes = [_started(mode, tmp_path) for mode in ("fresh", "after")]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    fresh, after = (json.loads(stdout.splitlines()[-1]) for stdout, _ in outputs)
    assert after["survived"] == [True, False, True]
    assert after["left"] == fresh["left"]
    assert after["left"]["kinds"] == ["prepared", "epoch", "rung", "epoch", "rung"]
    assert (after["folder"], after["home"]) == (str(tmp_path), "HOME" in os.environ)


_LEFT_OPEN: list[object] = []


def _left_open(block: torch.inference_mode) -> None:
    block.__enter__()
    _LEFT_OPEN.append(block)


class _SeesCalls(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


class _SeesKernels(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


def _switch_device_and_mode() -> None:
    _SeesCalls().__enter__()
    torch.set_default_device("meta")
    _SeesCalls().__enter__()


SWITCHED: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "device": (lambda: torch.set_default_device("meta"), lambda: torch.empty(()).device),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "deterministic": (lambda: torch.use_deterministic_algorithms(True, warn_only=True), torch.is_deterministic_algorithms_warn_only_enabled),
    "anomaly": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "precision": (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision),
    "mkldnn": (lambda: torch.backends.mkldnn.set_flags(False), torch._C._get_mkldnn_enabled),
    "cudnn": (lambda: setattr(torch.backends.cudnn, "benchmark", True), torch._C._get_cudnn_benchmark),
    "autocast": (lambda: torch.autocast("cpu", dtype=torch.float16).__enter__(), lambda: torch.is_autocast_enabled("cpu")),
    "hooks": (
        lambda: torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
        lambda: len(torch.nn.modules.module._global_forward_hooks),
    ),
    "warnings": (lambda: warnings.simplefilter("ignore"), lambda: list(warnings.filters)),
    "shown": (lambda: setattr(warnings, "showwarning", print), lambda: warnings.showwarning),
    "variables": (lambda: os.environ.update(TZ="nowhere"), lambda: os.environ.get("TZ")),
    "lost variables": (lambda: os.environ.pop("PATH"), lambda: os.environ.get("PATH")),
    "folder": (lambda: os.chdir("/"), Path.cwd),
    "numpy": (lambda: np.seterr(all="raise"), np.geterr),
    "garbage": (gc.disable, gc.isenabled),
    "garbage thresholds": (lambda: gc.set_threshold(1, 1, 1), gc.get_threshold),
    "inference": (lambda: _left_open(torch.inference_mode()), torch.is_inference_mode_enabled),
    "saved tensors": (
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor * 2, lambda tensor: tensor).__enter__(),
        lambda: torch._C._autograd._top_saved_tensors_default_hooks(True),
    ),
    "function modes": (lambda: _SeesCalls().__enter__(), lambda: len(_get_current_function_mode_stack())),
    "function modes over a device": (_switch_device_and_mode, lambda: (len(_get_current_function_mode_stack()), torch.empty(()).device)),
    "dispatch modes": (lambda: _SeesKernels().__enter__(), torch._C._len_torch_dispatch_stack),
    "backward threads": (lambda: torch.autograd.set_multithreading_enabled(False), torch._C._is_multithreading_enabled),
    "int8 engine": (lambda: setattr(torch.backends.quantized, "engine", "qnnpack"), lambda: torch.backends.quantized.engine),
    "nnpack": (lambda: torch.backends.nnpack.set_flags(False), torch._C._get_nnpack_enabled),
    "fp16 accumulation": (
        lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", True),
        lambda: torch.backends.cuda.matmul.allow_fp16_accumulation,
    ),
    "signals": (lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), lambda: signal.getsignal(signal.SIGUSR1)),
    "logging": (lambda: logging.disable(logging.CRITICAL), lambda: logging.root.manager.disable),
    "log handlers": (lambda: logging.root.addHandler(logging.NullHandler()), lambda: list(logging.root.handlers)),
    "recursion": (lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1), sys.getrecursionlimit),
    "affinity": (lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}), lambda: os.sched_getaffinity(0)),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_what_was_switched_is_put_back(before: Isolation, name: str) -> None:
    switch, read = SWITCHED[name]
    was = read()
    switch()
    assert read() != was, "the test must turn it"
    before.begin(0)
    assert read() == was


def test_tf32_is_put_back_whichever_way_it_was_set(before: Isolation) -> None:
    was = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    torch._C._set_cudnn_allow_tf32(False)
    before.begin(0)
    assert torch.backends.cudnn.conv.fp32_precision == was  # type: ignore[attr-defined]
    assert torch._C._get_cudnn_allow_tf32() is True


def test_cast_weights_of_an_open_autocast_are_forgotten(before: Isolation) -> None:
    torch.autocast_increment_nesting()
    torch.autocast_increment_nesting()
    before.begin(0)
    torch.autocast_increment_nesting()
    assert torch.autocast_decrement_nesting() == 0


def test_a_timer_that_would_kill_a_later_trial_is_stopped(before: Isolation) -> None:
    of_pytest = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        taken = Isolation.taken()
        signal.setitimer(signal.ITIMER_REAL, 1000)
        taken.begin(0)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *of_pytest)


def test_what_is_open_from_before_stays_open(before: Isolation) -> None:
    with _SeesCalls() as mode, torch.device("meta"):
        taken = Isolation.taken()
        _SeesCalls().__enter__()
        taken.begin(0)
        assert _get_current_function_mode_stack()[0] is mode
        assert torch.empty(()).device.type == "meta"
        assert len(_get_current_function_mode_stack()) == 2


def _drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_all_generators_begin_with_the_trials_seed(before: Isolation) -> None:
    before.begin(5)
    first = _drawn()
    before.begin(6)
    assert _drawn() != first
    before.begin(5)
    assert _drawn() == first


def test_what_happens_inside_leaves_no_trace_outside(before: Isolation) -> None:
    before.begin(5)
    expected = _drawn()
    before.begin(5)
    with isolated(7):
        _drawn()
        torch.set_default_dtype(torch.float64)
    assert _drawn() == expected
    assert torch.get_default_dtype() is torch.float32
