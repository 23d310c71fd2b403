"""What counts as the state of a process beside its generators, hooks and files: each switch with how it is read and how it is set.

Most are torch's. Not here: what cannot be read, or belongs to modules that a process loads once, as its path of imports does.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._device import DeviceContext

Switch = tuple[Callable[[], Any], Callable[[Any], object]]
"""How one is read, and how it is set."""

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


def _infer(wanted: bool) -> None:
    """Out of a guard that was never left only a guard inside it leads, for as long as it is kept."""
    if torch.is_inference_mode_enabled() is not wanted:
        guard = torch._C._InferenceMode(wanted)
        guard.__enter__()  # type: ignore[no-untyped-call]
        _GUARDS.append(guard)


def _saved_hooks() -> bool:
    """Whether something stands between autograd and the tensors that it keeps."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def _without_saved_hooks(_: bool) -> None:
    while _saved_hooks():
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _function_modes() -> list[object]:
    """Modes that see each call of torch, the outermost first; that of the default device has its own switch."""
    stack = [torch._C._get_function_stack_at(index) for index in range(torch._C._len_torch_function_stack())]
    return [mode for mode in stack if not isinstance(mode, DeviceContext)]


def _with_function_modes(wanted: list[object]) -> None:
    if _function_modes() == wanted:
        return
    stack = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
    for mode in reversed(stack):
        if isinstance(mode, DeviceContext) or mode in wanted:
            torch._C._push_on_torch_function_stack(mode)


def _leave_dispatch_modes(wanted: int) -> None:
    while torch._C._len_torch_dispatch_stack() > wanted:
        torch._C._pop_torch_dispatch_stack(None)


def _signals() -> Mapping[int, object]:
    """Answers to signals that Python knows."""
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _answer_signals(wanted: Mapping[int, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # elsewhere nobody can have set one, nor can we
    for number, answer in wanted.items():
        if answer is not None and signal.getsignal(number) != answer:
            signal.signal(number, answer)


def _logging() -> tuple[int, int, tuple[logging.Handler, ...]]:
    root = logging.getLogger()
    return root.manager.disable, root.level, tuple(root.handlers)


def _log(wanted: tuple[int, int, tuple[logging.Handler, ...]]) -> None:
    logging.disable(wanted[0])
    root = logging.getLogger()
    root.setLevel(wanted[1])
    root.handlers[:] = wanted[2]


def _affinity() -> set[int]:
    """CPUs of this thread; not every system tells."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _bind(wanted: set[int]) -> None:
    if wanted and _affinity() != wanted:
        os.sched_setaffinity(0, wanted)


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
_GUARDS: list[object] = []
SWITCHES: Mapping[str, Switch] = {
    "dispatch modes": (torch._C._len_torch_dispatch_stack, _leave_dispatch_modes),  # modes first: what is read under one may not be so
    "function modes": (_function_modes, _with_function_modes),
    "inference": (torch.is_inference_mode_enabled, _infer),
    "saved tensors": (_saved_hooks, _without_saved_hooks),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, _to_default_device),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "forward gradients": (torch._C._is_fwd_grad_enabled, torch._C._set_fwd_grad_enabled),
    "backward threads": (torch._C._is_multithreading_enabled, torch._C._set_multithreading_enabled),
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
    "cudnn benchmark limit": _attribute(_cudnn, "benchmark_limit"),
    "cudnn deterministic": _attribute(_cudnn, "deterministic"),
    "mkldnn": _attribute(_mkldnn, "enabled"),
    "mkldnn deterministic": _attribute(_mkldnn, "deterministic"),
    "nnpack": (torch._C._get_nnpack_enabled, torch._C._set_nnpack_enabled),
    "int8 engine": (torch._C._get_qengine, torch._C._set_qengine),
    "linear algebra": (torch._C._get_linalg_preferred_backend, torch._C._set_linalg_preferred_backend),
    "products": (torch._C._get_blas_preferred_backend, torch._C._set_blas_preferred_backend),
    "fp16 accumulation": _attribute(_cuda.matmul, "allow_fp16_accumulation"),
    "fp16 sums": _attribute(_cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    "bf16 sums": _attribute(_cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    "flash attention": (_cuda.flash_sdp_enabled, _cuda.enable_flash_sdp),
    "lean attention": (_cuda.mem_efficient_sdp_enabled, _cuda.enable_mem_efficient_sdp),
    "plain attention": (_cuda.math_sdp_enabled, _cuda.enable_math_sdp),
    "order of attentions": (torch._C._get_sdp_priority_order, torch._C._set_sdp_priority_order),
    "plain attention sums": (torch._C._get_math_sdp_allow_fp16_bf16_reduction, torch._C._set_math_sdp_allow_fp16_bf16_reduction),
    "cudnn attention": (_cuda.cudnn_sdp_enabled, _cuda.enable_cudnn_sdp),
    "fast encoder": (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),  # before the ones by operation, which it sets
    "cudnn tf32": (torch._C._get_cudnn_allow_tf32, torch._C._set_cudnn_allow_tf32),
    **{f"fp32 {backend} {operation}": _fp32(backend, operation) for backend, operation in _FP32_OPERATIONS},
    "kind of global hooks": _attribute(sys.modules["torch.nn.modules.module"], "_global_is_full_backward_hook"),
    "garbage": (gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    "garbage thresholds": (gc.get_threshold, lambda value: gc.set_threshold(*value)),
    "recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
    "signals": (_signals, _answer_signals),
    "timer": (lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0, lambda was_on: was_on or signal.setitimer(signal.ITIMER_REAL, 0)),
    "logging": (_logging, _log),
    "affinity": (_affinity, _bind),
    "numpy errors": (np.geterr, lambda value: np.seterr(**value)),
}
