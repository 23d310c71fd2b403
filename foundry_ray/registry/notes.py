"""Who changed something, when and why: what every change of the registry carries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from foundry_ray.errors import OutOfRange
from foundry_ray.protocols import Clock

MAX_REASON = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`by` is user@host, `at` the ISO time of the clock of whoever changed it, `reason` free text of at most 500 characters."""

    by: str = "unknown"
    at: str = ""
    reason: str = ""


def write_note(clock: Clock, *, by: str = "unknown", reason: str = "") -> Note:
    """A note of this moment. Raises OutOfRange for a reason that is too long or holds control characters."""
    if len(reason) > MAX_REASON or not all(letter.isprintable() for letter in reason):
        got = f"{len(reason)} characters" if len(reason) > MAX_REASON else "control characters"
        message = f"the reason has {got}, wanted one line of at most {MAX_REASON} characters."
        raise OutOfRange(message, hint="put the rest where the reason can point at.", key="reason", value=reason[:40])
    return Note(by=by, at=datetime.fromtimestamp(clock.now_s(), UTC).isoformat(timespec="seconds"), reason=reason)
