"""What to do when a training group has ended without finishing: a pure function of what happened. `attempts` carries it out.

Each cause has a budget of its own, so that one does not eat the other's:

    a rank was out of memory           a smaller shape, same batch       `max_memory_retries`
    a node was taken or lost           on what is left                   `max_preemptions`
    a worker died, the store is away   again from the last checkpoint    `max_failures`
    the driver asked, to grow          again, larger                     free
    foundry refused or saw a NaN       stop with that error              none
    a bug                              stop with its own traceback       none

Training replays exactly from a checkpoint, so a Python error that its own code raised would come again: it stops at once. Two kinds may
be weather and get a restart: errors of the surroundings (files, sockets, CUDA), and an error of unknown kind after steps went well; the
same one at the same step is then a bug too. A rank that only complains about a lost peer is a witness and not the culprit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from foundry_ray.errors import Diverged, FoundryError, Preempted, ResourcesUnavailable, WorkerGroupFailed
from foundry_ray.training.shape import Shape, halved

_LOST_PEER = re.compile(r"connection (closed|reset) by peer|connection refused|broken pipe|DistBackendError|NCCL.*(remote|abort)", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|(CUDA|HIP) (error: )?out of memory|failure \d+ 'out of memory'|DefaultCPUAllocator: (can't|not enough)"
    r"|\bMemoryError\b|std::bad_alloc|_ALLOC_FAILED|running low on memory"
)
_LOST_NODE = re.compile(r"node (has died|was preempted|is dead|was terminated|it was running on)|NodeDiedError|PreemptionError")
_SURROUNDINGS = re.compile(
    r"^([\w.]*(OSError|IOError|ConnectionError|Connection\w+Error|TimeoutError|BlockingIOError|PermissionError|FileNotFoundError|Timeout)\b"
    r"|.*(CUDA error(?!: device-side assert)|CUDNN_STATUS|CUBLAS_STATUS|uncorrectable|Bus error|timed out|Address already in use))",
    re.IGNORECASE,
)
_BUGS = re.compile(
    r"^(TypeError|ValueError|AttributeError|NameError|UnboundLocalError|KeyError|IndexError|ImportError|ModuleNotFoundError|SyntaxError"
    r"|AssertionError|NotImplementedError|ZeroDivisionError|RecursionError)\b|.*device-side assert"
)
_TRACEBACK = "Traceback (most recent call last):"
Asked = Literal["", "preempted", "resize"]


class FailureKind(StrEnum):
    """How one rank ended."""

    DIED = "died"
    LOST_NODE = "lost its node"
    CRASHED = "crashed"
    RAISED = "raised"
    NOT_STARTED = "was not started"


class RankCrashed(Exception):
    """A Python error on one rank that is not foundry's; carries the traceback's text, because tracebacks do not travel.

    Attributes:
        step: Optimizer steps done when it came; None before the loop stood.
        first_step: Those that this attempt had begun with.
    """

    def __init__(self, text: str, step: int | None = None, first_step: int | None = None) -> None:
        super().__init__(text, step, first_step)
        self.text = text
        self.step = step
        self.first_step = first_step


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFailure:
    """One rank's end: `text` is its own traceback or the reason of its death, `error` what foundry raised on purpose."""

    rank: int
    kind: FailureKind
    text: str
    error: FoundryError | None = None
    step: int | None = None
    first_step: int | None = None

    @property
    def is_witness(self) -> bool:
        """It noticed that another rank was gone. NCCL's own lack of memory comes as an error of the same type, and is none of a peer."""
        return self.kind is FailureKind.CRASHED and _LOST_PEER.search(self.text) is not None and not self.is_out_of_memory

    @property
    def is_out_of_memory(self) -> bool:
        """Its device, its process or its node had no memory left. The kernel's own killer leaves no such words: that is a death."""
        return self.error is None and _OUT_OF_MEMORY.search(self.text) is not None

    @property
    def is_preempted(self) -> bool:
        """Its node was taken away, or it stopped because that was announced."""
        is_gone = self.kind in (FailureKind.DIED, FailureKind.LOST_NODE) and _LOST_NODE.search(self.text) is not None
        return is_gone or self.kind is FailureKind.LOST_NODE or isinstance(self.error, Preempted)

    @property
    def has_progress(self) -> bool:
        """Steps were done since this attempt began."""
        return self.step is not None and self.step > (self.first_step or 0)

    @property
    def signature(self) -> str:
        """Equal for the same traceback, whatever the addresses in it."""
        return hashlib.sha256(re.sub(r"0x[0-9a-fA-F]+", "0x", self.text).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """How often each cause may be answered with another attempt."""

    max_failures: int
    max_preemptions: int
    max_memory_retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """How often it was.

    Attributes:
        num_failures: Since the newest checkpoint, as `num_preemptions`: what goes wrong now and then ends no training that goes on all the same.
        num_memory_retries: In all.
        crashes: Maps the signature of a traceback to the step at which it came.
        checkpoint_step: Of the newest checkpoint when a group failed last.
    """

    num_failures: int = 0
    num_preemptions: int = 0
    num_memory_retries: int = 0
    crashes: Mapping[str, int] = field(default_factory=dict)
    checkpoint_step: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureFacts:
    """What is known when a group has ended.

    Attributes:
        failures: Of its ranks; at least one.
        shape: What the group had.
        asked: What the driver had asked of the group, if it did.
        max_zero_stage: The highest stage that the engine, the model and the optimizer can use.
        checkpoint_step: Of the newest checkpoint; -1 where there is none, or nobody answers.
    """

    failures: tuple[RankFailure, ...]
    shape: Shape
    budgets: Budgets
    spent: Spent = field(default_factory=Spent)
    asked: Asked = ""
    max_zero_stage: int = 0
    checkpoint_step: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Another attempt (`error` is None) with this shape and these budgets spent, or the end with `error`; `counted` says "1 of 3"."""

    reason: str
    shape: Shape
    spent: Spent
    error: FoundryError | None = None
    counted: str = ""


def decide(facts: FailureFacts) -> Decision:
    """Another attempt, and with which shape; or the end."""
    if facts.checkpoint_step > facts.spent.checkpoint_step:
        facts = replace(facts, spent=replace(facts.spent, num_failures=0, num_preemptions=0, checkpoint_step=facts.checkpoint_step))
    refused = _earliest([one for one in facts.failures if one.error is not None and not one.error.retryable])
    if refused is not None:
        return _end(facts, f"rank {refused.rank} raised {type(refused.error).__name__}", refused.error)
    full = next((one for one in facts.failures if one.is_out_of_memory), None)
    if full is not None:
        return _with_less_memory(facts, full)
    if facts.asked == "resize" and all(isinstance(one.error, Preempted) or one.is_witness for one in facts.failures):
        return Decision(reason="more workers fit now", shape=facts.shape, spent=facts.spent)
    taken = next((one for one in facts.failures if one.is_preempted), None)
    if taken is not None or facts.asked == "preempted":
        return _elsewhere(facts, taken or culprit_of(facts.failures))
    return _again(facts, culprit_of(facts.failures))


def is_own_bug(text: str) -> bool:
    """Whether a traceback ends with an error that its code raised and would raise again, in a process that is none the worse for it."""
    line = last_line(text)
    return bool(_BUGS.search(line)) and not _SURROUNDINGS.search(line) and "device-side assert" not in line


def culprit_of(failures: Sequence[RankFailure]) -> RankFailure:
    """The failure that most likely caused the others: a death before an error before a lost peer, then the lowest rank."""
    assert failures, "a worker group that failed has a failure"
    return min(failures, key=lambda failure: (failure.kind is not FailureKind.DIED, failure.is_witness, failure.rank))


def last_line(text: str) -> str:
    """The line that names the error: the first after the frames of the last traceback, as its message may go on; without one, the last line.

    Lines that are indented are frames, or details.
    """
    _, header, end = text.rpartition(_TRACEBACK)
    lines = [line for line in end.splitlines() if line.strip()]
    named = [line for line in lines if not line.startswith((" ", "\t"))]
    return (named or [line.strip() for line in lines] or ["no reason given"])[0 if header and named else -1]


def _with_less_memory(facts: FailureFacts, full: RankFailure) -> Decision:
    what = f"rank {full.rank} was out of memory with {facts.shape}"
    smaller = _smaller(facts.shape, facts.max_zero_stage)
    if smaller is None:
        hint = "take a smaller model, `teacher.activation_checkpointing: true`, `teacher.deepspeed.offload_optimizer: {device: cpu}` or more workers."
        return _end(facts, what, _too_large(f"{what}, and nothing smaller is left: {last_line(full.text)}", hint))
    limit = facts.budgets.max_memory_retries
    if facts.spent.num_memory_retries >= limit:
        hint = "set `teacher.micro_batch_size`, or raise `teacher.max_memory_retries`."
        return _end(facts, what, _too_large(f"{what}, and all {limit} smaller attempts are used up: {last_line(full.text)}", hint))
    spent = replace(facts.spent, num_memory_retries=facts.spent.num_memory_retries + 1)
    reason = f"{what}; now {smaller}, the same batch of {smaller.batch_size}"
    return Decision(reason=reason, shape=smaller, spent=spent, counted=f"{spent.num_memory_retries} of {limit}")


def _smaller(shape: Shape, max_zero_stage: int) -> Shape | None:
    """Less memory for the same batch: smaller passes, then a higher ZeRO stage where there are workers to share with."""
    if (less := halved(shape)) is not None:
        return less
    can_shard = shape.num_workers > 1 and shape.zero_stage < max_zero_stage
    return replace(shape, zero_stage=shape.zero_stage + 1) if can_shard else None


def _elsewhere(facts: FailureFacts, taken: RankFailure) -> Decision:
    limit = facts.budgets.max_preemptions
    if facts.spent.num_preemptions >= limit:
        return _stop(facts, taken, f"lost its node, and all {limit} preemptions of `teacher.max_preemptions` are used up")
    spent = replace(facts.spent, num_preemptions=facts.spent.num_preemptions + 1)
    is_announced = facts.asked == "preempted"
    reason = "a node of the group is to be taken away" if is_announced else f"{_who(taken)}: {last_line(taken.text)}"
    return Decision(reason=reason, shape=facts.shape, spent=spent, counted=f"{spent.num_preemptions} of {limit}")


def _who(taken: RankFailure) -> str:
    return f"rank {taken.rank} lost its node" if taken.rank >= 0 else "a node is lost"


def _again(facts: FailureFacts, culprit: RankFailure) -> Decision:
    if (bug := _bug(facts, culprit)) is not None:
        return _stop(facts, culprit, bug)
    limit = facts.budgets.max_failures
    if facts.spent.num_failures >= limit:
        return _stop(facts, culprit, f"failed, and all {limit} restarts are used up")
    crashes = {**facts.spent.crashes, culprit.signature: culprit.step or 0} if culprit.kind is FailureKind.CRASHED else facts.spent.crashes
    spent = replace(facts.spent, num_failures=facts.spent.num_failures + 1, crashes=crashes)
    reason = f"rank {culprit.rank} {culprit.kind}: {last_line(culprit.text)}"
    return Decision(reason=reason, shape=facts.shape, spent=spent, counted=f"{spent.num_failures} of {limit}")


def _bug(facts: FailureFacts, culprit: RankFailure) -> str | None:
    """Why a restart would only meet this again; None where it may not."""
    line = last_line(culprit.text)
    if culprit.kind is not FailureKind.CRASHED or culprit.is_witness or _SURROUNDINGS.search(line):
        return None
    if _BUGS.search(line):
        return "failed with an error that a restart would only repeat"
    if not culprit.has_progress:
        return "failed before its first step"
    if (culprit.step or 0) <= facts.spent.crashes.get(culprit.signature, -1):
        return "failed twice with the same error at the same step, which a restart will not mend"
    return None


def _earliest(failures: Sequence[RankFailure]) -> RankFailure | None:
    """NaN spreads over the ranks with the next gradient, so the rank with the lowest step saw it first."""
    return min(failures, key=lambda failure: (_step(failure.error), failure.rank), default=None)


def _step(error: FoundryError | None) -> int:
    step = error.facts.get("step") if isinstance(error, Diverged) else None
    return step if isinstance(step, int) else -1


def _too_large(message: str, hint: str) -> ResourcesUnavailable:
    return ResourcesUnavailable(message, hint=hint)


def _end(facts: FailureFacts, reason: str, error: FoundryError | None) -> Decision:
    return Decision(reason=reason, shape=facts.shape, spent=facts.spent, error=error)


def _stop(facts: FailureFacts, culprit: RankFailure, what: str) -> Decision:
    reason = f"rank {culprit.rank} {what}"
    if culprit.error is not None:
        return _end(facts, reason, culprit.error)
    message = f"training stopped: {reason}: {last_line(culprit.text)}"
    hint = "mend the cause and run the same command: it goes on from the last checkpoint. `teacher.max_failures` sets the restarts."
    texts = {failure.rank: failure.text for failure in facts.failures}
    return _end(facts, reason, WorkerGroupFailed(message, hint=hint, failures=texts))
