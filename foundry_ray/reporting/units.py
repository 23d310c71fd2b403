"""Numbers as people read them. Pure."""

from __future__ import annotations

import re

from foundry_ray.errors import OutOfRange


def si_bytes(value: float) -> str:
    """Bytes with a binary prefix: 2.7 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def si_count(value: float) -> str:
    """A count with a decimal prefix: 0.70 M."""
    for unit in ("", " k", " M", " G"):
        if abs(value) < 1000:
            return f"{value:.0f}" if not unit else f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} T"


def ratio(larger: float, smaller: float) -> str:
    """How many times smaller: 8.3x."""
    return f"{larger / smaller:.1f}x" if smaller else "-"


def percent(value: float) -> str:
    """A share of one as a percentage with two decimals."""
    return f"{100 * value:.2f} %"


def duration(seconds: float) -> str:
    """Seconds as 7.2 s, 3 min 12 s or 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def value(metric: str, number: float) -> str:
    """A metric's value in the unit that its name says."""
    if metric == "accuracy":
        return percent(number)
    if metric.endswith("_bytes"):
        return si_bytes(number)
    if metric.endswith("_ms"):
        return f"{number:.3f} ms"
    if metric.startswith("num_"):
        return si_count(number)
    return f"{number:.4g}"


def short(metric: str) -> str:
    """A metric's name without the unit that stands beside its values."""
    return metric.removesuffix("_ms").removesuffix("_bytes")


def times(number: int) -> str:
    """How often: once, twice, 3 times."""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_duration(text: str, *, key: str) -> float:
    """Seconds of `30s`, `15m`, `24h` or `7d`. Raises OutOfRange, naming `key`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise OutOfRange(f"{key} is {text!r}, wanted a number with s, m, h or d.", hint=f"for example `{key} 24h`.", key=key, value=text)
    return float(match[1]) * _SECONDS[match[2]]
