"""One thread that brings points to one place, so that nobody waits for it.

Points that a place did not take are kept, up to a bound, and offered again with the next ones: a server that restarts misses nothing.
"""

from __future__ import annotations

import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Axis", "Lane", "Point", "Tracker"]

Axis = Literal["steps", "epochs"]
_AT_ONCE = 50
_KEPT = 20_000
_USER_INFO = re.compile(r"//[^/@\s]*@")
_SHOWN_LETTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Metrics after so many optimizer steps or epochs, at a time in seconds since 1970."""

    axis: Axis
    index: int
    values: Mapping[str, float]
    time_s: float


class Tracker(Protocol):
    """A place that keeps points. All calls come from one thread, which may wait; what they raise is a warning."""

    name: str

    def write(self, points: Sequence[Point]) -> None:
        """Keep these, all or none."""

    def close(self, *, is_good: bool) -> None:
        """No point comes any more; `is_good`: training came to its end."""


class Lane:
    """The way of points to a tracker, in order."""

    def __init__(self, tracker: Tracker, *, warn: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._warn = warn
        self._queue: queue.SimpleQueue[Point | Literal["good", "bad"]] = queue.SimpleQueue()
        self._pending: deque[Point] = deque(maxlen=_KEPT)
        self._has_warned = False
        self._thread: threading.Thread | None = None

    def put(self, point: Point) -> None:
        """Returns at once. The first point starts the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"track-{self._tracker.name}", daemon=True)
            self._thread.start()
        self._queue.put(point)

    def finish(self, *, is_good: bool) -> None:
        """No point comes any more."""
        self._queue.put("good" if is_good else "bad")

    def join(self, timeout_s: float) -> None:
        """Wait until all is written, at most so long; a place that needs longer is left alone with a warning."""
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._warn(
                f"{self._tracker.name} did not take the last metrics within {timeout_s:g} s: they are missing there. The model is not affected."
            )

    def _run(self) -> None:
        end = None
        while end is None:
            end = self._take()
            self._write()
        if self._pending:
            self._warn(f"The last metrics did not reach {self._tracker.name}: {len(self._pending)} are missing there. The model is not affected.")
        self._guarded(lambda: self._tracker.close(is_good=end == "good"))

    def _take(self) -> Literal["good", "bad"] | None:
        """Wait for a point, and take all that are there."""
        item = self._queue.get()
        while True:
            if isinstance(item, str):
                return item
            self._pending.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return None

    def _write(self) -> None:
        while self._pending:
            batch = [self._pending[index] for index in range(min(_AT_ONCE, len(self._pending)))]
            if not self._guarded(lambda batch=batch: self._tracker.write(batch)):  # type: ignore[misc]
                return
            for _ in batch:
                self._pending.popleft()

    def _guarded(self, action: Callable[[], None]) -> bool:
        """The border of the thread: whatever a library raises here is a warning, the first time."""
        try:
            action()
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                self._warn(
                    f"{self._tracker.name} does not take metrics: {_shown(error)}. Training goes on, and offers the last {_KEPT} points again."
                )
            return False
        return True


def _shown(error: Exception) -> str:
    """An error in one line, without the user and password of a URL."""
    text = _USER_INFO.sub("//", " ".join(f"{type(error).__name__}: {error}".split())).rstrip(".")
    return text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS] + "…"
