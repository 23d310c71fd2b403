"""The system's time, for stores that are opened without a clock of the caller's; `runtime` has the public one, which a sibling may not import."""

from __future__ import annotations

import time


class WallClock:
    """Clock protocol over the operating system's clocks."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
