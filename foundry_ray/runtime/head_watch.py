"""Notices that a cluster's head is gone, and ends the command for it.

Ray waits a minute for a head that does not answer, in calls that return to nobody, and then ends the process without a word to its owner. So a
thread of our own looks whether somebody listens there, and interrupts the main thread, as Ctrl-C would: state is saved, leases are given back.
Decides: when a head counts as gone. Leaves to others: what the user is told (`Session.lost`), and going on (`foundry resume`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from foundry_ray.errors import ClusterUnreachable
from foundry_ray.runtime import ports

_EVERY_S = 2.0
_ANSWER_S = 2.0
_TO_END_S = 25.0
"""What the main thread has to come to its end, of which Ray's own shutdown takes 14 s; its minute must not run out before."""


class HeadWatch:
    """A thread that looks at one head.

    Args:
        address: host:port of its GCS.
        silence_s: For how long nobody may listen there: a head that is restarted elsewhere, or by a supervisor, comes back.
    """

    def __init__(self, address: str, *, silence_s: float) -> None:
        self._address = address
        self._silence_s = silence_s
        self._is_over = threading.Event()
        self._is_lost = False
        self._thread = threading.Thread(target=self._look, name="head-watch", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()

    @property
    def lost(self) -> ClusterUnreachable | None:
        """What to raise once the head is gone."""
        if not self._is_lost:
            return None
        message = f"The Ray head at {self._address} has not answered for {self._silence_s:g} s."
        return ClusterUnreachable(message, hint="finished work is kept: run the command again.", address=self._address)

    def _look(self) -> None:
        host, _, port = self._address.rpartition(":")
        silent_s = 0.0
        while not self._is_over.wait(_EVERY_S):
            if ports.is_listening(int(port), host.strip("[]"), timeout_s=_ANSWER_S):
                silent_s = 0.0
                continue
            silent_s += _EVERY_S
            if silent_s >= self._silence_s:
                self._end()
                return

    def _end(self) -> None:
        self._is_lost = True
        heard = next((number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))), None)
        if heard is not None:  # a shell's background jobs ignore Ctrl-C
            os.kill(os.getpid(), heard)
            if self._is_over.wait(_TO_END_S):
                return
        error = self.lost  # the main thread hangs in a call to the head, or hears nothing
        assert error is not None
        sys.stderr.write(f"error: {error.message}\nhint:  {error.hint}\n")
        sys.stderr.flush()
        os._exit(error.exit_code)
