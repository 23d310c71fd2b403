"""A clock that moves only when it is told to."""

from __future__ import annotations


class FakeClock:
    """Time starts at `start_s`; `sleep` advances it at once, `advance` moves it from outside."""

    def __init__(self, start_s: float = 1_700_000_000.0) -> None:
        self._now_s = start_s
        self.sleeps: list[float] = []

    def now_s(self) -> float:
        return self._now_s

    def monotonic_s(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self._now_s += seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds
