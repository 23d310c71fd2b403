"""What a runtime is, how one is opened by name, and whether it can run on this machine.

Legend: N samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from foundry_ray.errors import ConfigError
from foundry_ray.plugins import Plugins

if TYPE_CHECKING:
    import numpy as np

Device = Literal["cpu", "cuda", "auto"]
Precision = Literal["fp32", "bf16"]


class Runtime(Protocol):
    """A loaded model that answers."""

    name: str
    device: str
    input_dtype: str
    input_shape: tuple[int, ...]

    def run(self, inputs_N: np.ndarray) -> np.ndarray:
        """Logits float32 (N, ...) of inputs (N, *input_shape) of `input_dtype`: raw uint8 pixels, or token ids.

        Raises:
            BadRecord: Another shape or dtype.
        """


class RuntimeOpener(Protocol):
    """What is registered under a runtime's name.

    Attributes:
        device: Where it computes unless another place is asked for.
        precisions: What it can compute products of fp32 numbers in.
    """

    name: str
    device: Device
    precisions: tuple[Precision, ...]

    def open(self, onnx: bytes, *, threads: int, precision: Precision, device: Device) -> Runtime:
        """Load a served file. Raises BadRecord for bytes that it cannot load, ConfigError for a device that it lacks."""

    def check(self, precision: Precision) -> None:
        """Raises ConfigError, with the command that mends it, where this machine lacks what it needs for this precision."""

    def version(self) -> str:
        """Version of the installed runtime, part of a device's fingerprint. Raises ConfigError where it is not installed."""


_BUILTIN = {
    "onnxruntime": "foundry_ray.inference.onnx_runtime",
    "openvino": "foundry_ray.inference.openvino",
    "tensorrt": "foundry_ray.inference.tensorrt",
}
_runtimes: Plugins[RuntimeOpener] = Plugins("runtime", "foundry_ray.runtimes", _BUILTIN)
register = _runtimes.register
runtime_names = _runtimes.names


def open_runtime(
    onnx: bytes, *, threads: int = 1, runtime: str = "onnxruntime", precision: Precision = "fp32", device: Device | None = None
) -> Runtime:
    """Load a served file; in onnxruntime 2-7 ms for models of 20 k to 0.7 M parameters, in others longer.

    Args:
        onnx: A self-contained file with one input (N, ...), raw pixels or token ids, and one output.
        threads: Threads inside one operator. 1 is the default because one process per core with one thread each
            serves more images per second than one process with many threads.
        runtime: A registered name.
        precision: What products of fp32 numbers are computed in.
        device: "cpu", "cuda", or "auto": cuda where the installed runtime offers it. Where absent, the runtime's own.

    Raises:
        ConfigError: Unknown runtime, or one that this machine cannot run so.
        BadRecord: The bytes are no model that this runtime can load.
    """
    opener = _checked(runtime, precision)
    return opener.open(onnx, threads=threads, precision=precision, device=device or opener.device)


def check_runtime(runtime: str, precision: Precision = "fp32") -> None:
    """See that this machine can run it. Raises ConfigError with the command that mends it."""
    _checked(runtime, precision)


def check_precision(runtime: str, precision: Precision) -> None:
    """See that a runtime has a precision, whatever machine it runs on. Raises ConfigError."""
    opener = _runtimes.get(runtime)
    if precision not in opener.precisions:
        wanted = " or ".join(opener.precisions)
        message = f"runtime {runtime} got precision {precision}, wanted {wanted}: it computes products of fp32 numbers in nothing else."
        raise ConfigError(message, hint=f"set `precision: {opener.precisions[0]}`, or take another runtime.")


def runtime_version(runtime: str = "onnxruntime") -> str:
    """The installed version of a runtime. Raises ConfigError for one that is unknown or not installed."""
    return _runtimes.get(runtime).version()


def runtime_device(runtime: str = "onnxruntime") -> Device:
    """Where a runtime computes unless another place is asked for. Raises ConfigError for an unknown one."""
    return _runtimes.get(runtime).device


def _checked(runtime: str, precision: Precision) -> RuntimeOpener:
    check_precision(runtime, precision)
    opener = _runtimes.get(runtime)
    opener.check(precision)
    return opener
