"""What a runtime is, how one is opened by name, and what identifies the CPU below it.

Legend: N samples, C channels (input) or classes (output), H height, W width.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from foundry_ray.plugins import Plugins

if TYPE_CHECKING:
    import numpy as np

Device = Literal["cpu", "cuda", "auto"]
_INT8_ISA = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "asimddp", "asimd")


class Runtime(Protocol):
    """A loaded model that answers."""

    name: str
    device: str
    image_shape: tuple[int, int, int]

    def run(self, images_NCHW: np.ndarray) -> np.ndarray:
        """Logits float32 (N, classes) of raw uint8 pixels (N, C, H, W). Raises BadRecord for another shape or dtype."""


class RuntimeOpener(Protocol):
    """What is registered under a runtime's name."""

    name: str

    def open(self, onnx: bytes, *, threads: int, device: Device) -> Runtime:
        """Load a served file. Raises BadRecord for bytes that it cannot load, ConfigError for a device that it lacks."""

    def version(self) -> str:
        """Version of the installed runtime, part of a device's fingerprint."""


_runtimes: Plugins[RuntimeOpener] = Plugins("runtime", "foundry_ray.runtimes", {"onnxruntime": "foundry_ray.inference.onnx_runtime"})
register = _runtimes.register


def open_runtime(onnx: bytes, *, threads: int = 1, runtime: str = "onnxruntime", device: Device = "cpu") -> Runtime:
    """Load a served file; 2-7 ms for models of 20 k to 0.7 M parameters.

    Args:
        onnx: A self-contained file with one uint8 input "pixels" (N, C, H, W) and one output "logits".
        threads: Threads inside one operator. 1 is the default because one process per core with one thread each
            serves more images per second than one process with many threads.
        runtime: A registered name.
        device: "cpu", "cuda", or "auto": cuda where the installed runtime offers it.

    Raises:
        ConfigError: Unknown runtime, or a device that the runtime lacks.
        BadRecord: The bytes are no model that this runtime can load.
    """
    return _runtimes.get(runtime).open(onnx, threads=threads, device=device)


def runtime_version(runtime: str = "onnxruntime") -> str:
    """The installed version of a runtime. Raises ConfigError for an unknown one."""
    return _runtimes.get(runtime).version()


def cpu_name() -> str:
    """The CPU's model and the instruction sets that decide the speed of int8, as "AMD EPYC (avx512_vnni avx2)"."""
    info = Path("/proc/cpuinfo")
    model, flags = platform.processor() or platform.machine(), ""
    for line in info.read_text(encoding="utf-8").splitlines() if info.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = value
            break
    return f"{model} ({' '.join(name for name in _INT8_ISA if name in flags.split())})"
