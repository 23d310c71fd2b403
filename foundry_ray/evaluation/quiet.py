"""Quiet for a measurement: one lock per node. Who measures holds it; trials look at it between steps and pause.

The lock is the kernel's (flock), so it opens by itself when its holder dies, and looking costs about 10 microseconds.
"""

from __future__ import annotations

import fcntl
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from foundry_ray.protocols import Clock

_POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietGate:
    """The gate of this node. Picklable: it is a path and two limits.

    Attributes:
        home: FOUNDRY_HOME of the driver, which several nodes may share, so that the file's name holds the node's. A node that cannot have
            that folder has its gate among the temporary files.
        settle_s: After closing, time for others to finish their step.
        timeout_s: Longest wait for another measurement; after it the measurement goes ahead and counts as noisy.
    """

    home: Path
    settle_s: float = 0.03
    timeout_s: float = 120.0

    @property
    def path(self) -> Path:
        if os.access(self.home, os.W_OK):
            return self.home / f"measuring-{platform.node()}.lock"
        return Path(tempfile.gettempdir()) / f"foundry-{os.getuid()}-measuring.lock"

    def is_closed(self) -> bool:
        """Whether somebody measures now."""
        try:
            with self.path.open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def wait(self, clock: Clock) -> float:
        """Pause while somebody measures; returns the seconds waited. This is what a trial calls between steps."""
        began_s = clock.monotonic_s()
        while self.is_closed() and clock.monotonic_s() - began_s < self.timeout_s:
            clock.sleep(_POLL_S)
        return clock.monotonic_s() - began_s

    @contextmanager
    def closed(self, clock: Clock) -> Iterator[bool]:
        """Measure inside this. Yields whether it is quiet: False where another measurement did not end in time."""
        with suppress(OSError):
            self.home.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as handle:
            is_quiet = self._take(handle.fileno(), clock)
            if is_quiet:
                clock.sleep(self.settle_s)
            yield is_quiet

    def _take(self, descriptor: int, clock: Clock) -> bool:
        began_s = clock.monotonic_s()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if clock.monotonic_s() - began_s >= self.timeout_s:
                    return False
                clock.sleep(_POLL_S)
            else:
                return True
