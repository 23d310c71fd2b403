"""What to do when workers fail: a pure function of what happened. `trainer` carries the decision out.

A worker that died (killed, out of memory, node lost) or a store that did not answer: restart from the last checkpoint, within a
budget. An error that foundry raised on purpose, or the same traceback twice: it would come again, so stop at once with the failing
rank's own words. A rank that only complains about a lost peer is a witness, not the culprit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from foundry_ray.errors import Diverged, FoundryError, WorkerGroupFailed

_LOST_PEER = re.compile(r"connection (closed|reset) by peer|connection refused|broken pipe|DistBackendError|NCCL.*(remote|abort)", re.IGNORECASE)


class FailureKind(StrEnum):
    """How one rank ended."""

    DIED = "died"
    CRASHED = "crashed"
    RAISED = "raised"


class RankCrashed(Exception):
    """A Python error on one rank that is not foundry's; carries the traceback's text, because tracebacks do not travel."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFailure:
    """One rank's end: `text` is its own traceback or the reason of its death, `error` what foundry raised on purpose."""

    rank: int
    kind: FailureKind
    text: str
    error: FoundryError | None = None

    @property
    def is_witness(self) -> bool:
        """It noticed that another rank was gone."""
        return self.kind is FailureKind.CRASHED and _LOST_PEER.search(self.text) is not None

    @property
    def signature(self) -> str:
        """Equal for the same traceback, whatever the addresses in it."""
        return hashlib.sha256(re.sub(r"0x[0-9a-fA-F]+", "0x", self.text).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureFacts:
    """What is known when a worker group has ended: its failures, earlier tracebacks, and the budget."""

    failures: tuple[RankFailure, ...]
    earlier_signatures: frozenset[str] = frozenset()
    num_restarts: int = 0
    max_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Restart from the last checkpoint (`error` is None), or stop with `error`."""

    reason: str
    error: FoundryError | None = None

    @property
    def is_restart(self) -> bool:
        return self.error is None


def decide(facts: FailureFacts) -> Decision:
    """Restart or stop."""
    raised = _worst([failure for failure in facts.failures if failure.error is not None and not failure.error.retryable])
    if raised is not None and raised.error is not None:
        return Decision(reason=f"rank {raised.rank} raised {type(raised.error).__name__}", error=raised.error)
    culprit = culprit_of(facts.failures)
    if culprit.kind is FailureKind.CRASHED and culprit.signature in facts.earlier_signatures:
        return _stop(facts, culprit, "failed twice with the same error, which a restart will not mend")
    if facts.num_restarts >= facts.max_failures:
        return _stop(facts, culprit, f"failed, and all {facts.max_failures} restarts are used up")
    return Decision(reason=f"rank {culprit.rank} {culprit.kind}: {last_line(culprit.text)}")


def culprit_of(failures: Sequence[RankFailure]) -> RankFailure:
    """The failure that most likely caused the others: a death before an error before a lost peer, then the lowest rank."""
    assert failures, "a worker group that failed has a failure"
    return min(failures, key=lambda failure: (failure.kind is not FailureKind.DIED, failure.is_witness, failure.rank))


def last_line(text: str) -> str:
    """The line of a traceback that names the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _worst(failures: Sequence[RankFailure]) -> RankFailure | None:
    """The earliest: NaN spreads over the ranks with the next gradient, so the rank with the lowest step saw it first."""
    return min(failures, key=lambda failure: (_step(failure.error), failure.rank), default=None)


def _step(error: FoundryError | None) -> int:
    step = error.facts.get("step") if isinstance(error, Diverged) else None
    return step if isinstance(step, int) else -1


def _stop(facts: FailureFacts, culprit: RankFailure, what: str) -> Decision:
    if culprit.error is not None:
        return Decision(reason=f"rank {culprit.rank} {what}", error=culprit.error)
    message = f"training stopped: rank {culprit.rank} {what}: {last_line(culprit.text)}"
    hint = "mend the cause and run the same command: it goes on from the last checkpoint. `teacher.max_failures` sets the restarts."
    texts = {failure.rank: failure.text for failure in facts.failures}
    return Decision(reason=f"rank {culprit.rank} {what}", error=WorkerGroupFailed(message, hint=hint, failures=texts))
