"""What can happen to a trial, as one frozen record; the journal is a list of these and nothing else.

| kind | written | says |
|---|---|---|
| open | by a driver before anything else | this driver owns the journal from here on |
| close | by a driver at its end | how long it was at it |
| ask | before the trial starts | a new trial with these parameters runs to the first rung |
| start | before the job starts | a waiting trial goes on to the next rung |
| prepared | once per trial | its cost, bytes and latency, and the hash of what it really is |
| postponed | once per trial, or not | it is prepared, and not begun yet: only as the best of all could it join the front |
| rung | at a rung | its metrics, its learning curve since the last one, its checkpoint |
| exploit | before the job starts | it goes on with another trial's weights and with these parameters (PBT) |
| measured | when a study goes on elsewhere | its latency on the device that there is now |
| adopt | when a study extends another | a trial of that study, with its results, which counts as one of this |
| suggest | when a study extends another | parameters that are to be tried before the sampler is asked |
| duplicate | instead of training | it is the same as an earlier trial, whose values answer for it |
| dominated | instead of training | it is compressed and not faster than the teacher |
| infeasible | instead of training | it breaks a hard constraint, or the recipe cannot be carried out |
| died | when its process is lost | it is tried again within the budget |
| failed | at its end | it cannot be continued, or its process was lost too often |
| epoch | never | progress on the way to a rung |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Literal

from foundry_ray.types import Json, Scalar, from_json, to_json

Kind = Literal[
    "open",
    "close",
    "ask",
    "start",
    "prepared",
    "postponed",
    "rung",
    "exploit",
    "measured",
    "adopt",
    "suggest",
    "duplicate",
    "dominated",
    "infeasible",
    "died",
    "failed",
    "epoch",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. Fields that a kind does not use keep their defaults and are not stored.

    Attributes:
        rung: Index of the rung that is aimed at (ask, start) or was reached (rung).
        attrs: What the sampler wants to remember of its proposal.
        effective: Hash of the model as it really is, with the hyperparameters.
        graph: Hash of the deployed graph, which its latency belongs to (prepared).
        excess: By how much the constraints are broken, summed over them, each as a share of its limit.
        of: The earlier trial that this one repeats (duplicate), whose weights it takes over (exploit), or that is among the best and costs no more
            (postponed).
        from_rung: The rung at which the donor had those weights (exploit).
        bracket: Of Hyperband (ask).
        at_s: Seconds of the study, over all its drivers, when this happened.
        device: Fingerprint of the device that the latency is of (prepared, postponed, measured).
        source: Key of the study that a trial or its parameters come from (adopt, suggest).
        driver: Who wrote it (open).
        is_out_of_memory: The node had no memory left, and its process was ended for that (died).
    """

    kind: Kind
    number: int = -1
    rung: int = 0
    epoch: int = 0
    seed: int = 0
    params: Mapping[str, Scalar] = field(default_factory=dict)
    attrs: Mapping[str, Scalar] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()
    checkpoint: str | None = None
    effective: str = ""
    graph: str = ""
    excess: float = 0.0
    of: int = -1
    error: str = ""
    duration_s: float = 0.0
    from_rung: int = 0
    bracket: int = 0
    at_s: float = 0.0
    device: str = ""
    source: str = ""
    driver: str = ""
    is_out_of_memory: bool = False

    def to_json(self) -> dict[str, Json]:
        """Only what differs from the defaults."""
        return {name: to_json(value) for name, default in _DEFAULTS if (value := getattr(self, name)) != default}


def event_from_json(document: Json, *, what: str) -> Event:
    """Rebuild an event. Raises ArtifactCorrupt."""
    return from_json(Event, document, what=what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A stretch of one trial, from a checkpoint to a rung, and on from there for as long as `observe` says so: what an executor runs.

    Attributes:
        rung: Index of the first rung that it comes to.
        from_epoch: Epochs that are done, in `checkpoint`.
        to_epoch: Epochs at that rung; where it equals `from_epoch`, only the latency is measured.
        later: Epochs at the rungs after it.
        num_halvings: How often its passes are halved beside what its slot has room for: once for each time that it was ended for want of memory.
        known: What is measured already, so that it is not measured again; empty for a trial that was never prepared.
    """

    number: int
    params: Mapping[str, Scalar]
    seed: int
    rung: int
    from_epoch: int
    to_epoch: int
    checkpoint: str | None = None
    known: Mapping[str, float] = field(default_factory=dict)
    later: tuple[int, ...] = ()
    num_halvings: int = 0


_DEFAULTS = tuple((one.name, one.default_factory() if one.default_factory is not MISSING else one.default) for one in fields(Event))
