"""What identifies the hardware that a runtime computes on, for fingerprints and reports."""

from __future__ import annotations

import platform
from pathlib import Path

_INT8_ISA = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "asimddp", "asimd")
_DOT_PRODUCTS = ("amx_int8", "avx512_vnni", "avx_vnni")
_GPUS = Path("/proc/driver/nvidia/gpus")


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


def has_exact_int8(cpu: str) -> bool:
    """Whether a CPU, as `cpu_name` tells it, adds products of int8 without loss.

    An x86 processor without dot products of int8 adds pairs of unsigned by signed products in 16 bits, where two large ones saturate: a file that
    was right elsewhere may answer otherwise on it (onnxruntime issue 5849).
    """
    names = cpu.rpartition("(")[2].rstrip(")").split()
    return "avx2" not in names or any(name in names for name in _DOT_PRODUCTS)


def device_name(device: str) -> str:
    """The CPU's name, or that of the first GPU as its driver tells it."""
    if device != "cuda":
        return cpu_name()
    for info in sorted(_GPUS.glob("*/information")):
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                return value.strip()
    return device
