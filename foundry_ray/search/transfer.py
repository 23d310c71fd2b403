"""What a study takes over from earlier ones: trials where the training is the same, and else the parameters of their front, to be tried first.

Each study keeps beside its journal what it is of (`study.json`). Earlier journals are read and never written. What is taken over are events of the
new journal, in the segment with which it begins; so it happens once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from foundry_ray.errors import ArtifactNotFound, ConfigError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search import constraints, pareto, points, relations, segments
from foundry_ray.search.constraints import Constraint
from foundry_ray.search.events import Event
from foundry_ray.search.rules import Rules
from foundry_ray.search.state import StudyState, TrialRecord
from foundry_ray.types import (
    FORMAT_VERSION,
    Param,
    Scalar,
    SearchSpace,
    Trial,
    TrialState,
    canonical_bytes,
    canonical_sha256,
    from_json,
    parse_json,
    to_json,
)

MAX_SUGGESTED = 8
"""Members of an earlier front whose parameters are tried first: the best few say most of what it knew, and the budget is for what is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyIdentity:
    """What a study is of: what a later one must know to tell what its trials are worth.

    Attributes:
        dataset: Fingerprint.
        teacher: Sha256.
        training: Hash of everything else that makes the result of a trial; empty where nobody knows it.
        levels: Epochs at its rungs.
        teacher_accuracy: On val.
    """

    space: SearchSpace
    dataset: str
    teacher: str
    training: str
    levels: tuple[int, ...]
    teacher_accuracy: float
    format_version: int = FORMAT_VERSION

    def trains_like(self, other: StudyIdentity) -> bool:
        """Whether equal parameters give equal trials in both."""
        return bool(self.training) and (self.dataset, self.teacher, self.training) == (other.dataset, other.teacher, other.training)


def identity_key(study_key: str) -> str:
    """Where it is kept."""
    return f"studies/{study_key}/study.json"


def read_identity(store: ArtifactStore, study_key: str) -> StudyIdentity:
    """What an earlier study was of.

    Raises:
        ConfigError: The store has no such study.
    """
    key = identity_key(study_key)
    try:
        data = store.get(key)
    except ArtifactNotFound as error:
        message = f"search.extends names {study_key}, but {store.uri} has no such study, wanted the key of one that was begun there."
        raise ConfigError(message, hint="`foundry study extend RUN` writes the key of a run's study; `foundry runs list` shows the runs.") from error
    return from_json(StudyIdentity, parse_json(data, what=key), what=key)


def write_identity(store: ArtifactStore, study_key: str, identity: StudyIdentity) -> None:
    """Keep what a study is of; the first word stands."""
    key = identity_key(study_key)
    if store.stat(key) is None:
        store.put(key, canonical_bytes(to_json(identity)))


def taken_over(rules: Rules, identity: StudyIdentity, store: ArtifactStore) -> list[Event]:
    """The events with which a study begins that extends others.

    Raises:
        ConfigError: One of these is not in the store.
        ArtifactCorrupt: The journal of one cannot be read.
    """
    adopted: dict[str, Event] = {}
    suggested: dict[str, Event] = {}
    for study_key in rules.extends:
        earlier = read_identity(store, study_key)
        state = StudyState(recipe_of=rules.recipe_of, levels=earlier.levels)
        for event in segments.read(store, f"studies/{study_key}/journal").events:
            state.apply(event)
        if earlier.trains_like(identity):
            for event in _adoptions(state, rules, identity.levels, source=study_key):
                adopted.setdefault(event.effective or canonical_sha256(to_json(event.params)), event)
        else:
            for event in _suggestions(state, rules, earlier.teacher_accuracy, source=study_key):
                suggested.setdefault(canonical_sha256(to_json(event.params)), event)
    return [*(replace(event, number=number) for number, event in enumerate(adopted.values())), *suggested.values()]


def is_in(space: SearchSpace, params: Mapping[str, Scalar]) -> bool:
    """Whether a study of this space could have proposed these parameters."""
    active = [param for param in points.in_order(space.params) if points.is_active(param, params)]
    if {param.name for param in active} != params.keys():
        return False
    return all(_fits(param, params[param.name]) for param in active) and all(one.holds(params) for one in relations.of(space))


def _fits(param: Param, value: Scalar) -> bool:
    if param.kind == "categorical":
        return any(type(choice) is type(value) and choice == value for choice in param.choices)
    if isinstance(value, (bool, str)) or (param.kind == "int" and not isinstance(value, int)):
        return False
    low, high = points.limits(param)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    steps = (value - low) / param.step if param.step else 0.0
    return low - slack <= value <= high + slack and abs(steps - round(steps)) < 1e-6


def _adoptions(state: StudyState, rules: Rules, levels: Sequence[int], *, source: str) -> Iterator[Event]:
    """Trials of that study as trials of this one: those with a result at one of its rungs, and those that no study can train."""
    limits = rules.limits
    for record in state.records.values():
        if record.duplicate_of is None and not record.donors and is_in(rules.space, record.trial.params):
            event = _adoption(record, limits, levels, source=source)
            if event is not None:
                yield event


def _adoption(record: TrialRecord, limits: Sequence[Constraint], levels: Sequence[int], *, source: str) -> Event | None:
    trial = record.trial
    broken = constraints.excesses(limits, record.known or trial.values)
    is_impossible = trial.state is TrialState.INFEASIBLE and not trial.values and not trial.dominated
    has_result = bool(record.known) and trial.state is not TrialState.FAILED and trial.resource_used >= levels[0]
    if not (has_result or is_impossible or (broken and trial.state is TrialState.INFEASIBLE)):
        return None
    return Event(
        kind="adopt",
        number=trial.number,
        params=trial.params,
        seed=trial.seed,
        epoch=trial.resource_used,
        values=record.known or trial.values,
        curve=trial.curve,
        checkpoint=trial.checkpoint,
        effective=record.effective,
        graph=record.graph,
        excess=sum(broken.values()) or float(is_impossible),
        error=constraints.explain(limits, record.known or trial.values) or (trial.error or "" if is_impossible else ""),
        device=trial.device,
        source=source,
    )


def _suggestions(state: StudyState, rules: Rules, teacher_accuracy: float, *, source: str) -> Iterator[Event]:
    """Of that study's front, by this one's objectives and in the order of its policy."""
    candidates = [record.trial for record in state.records.values() if record.duplicate_of is None and _is_candidate(record.trial, rules)]
    losses = [pareto.losses(trial.values, rules.objectives) for trial in candidates]
    front = [candidates[index] for index in pareto.front(losses)]
    by_number = {trial.number: trial for trial in front}
    for number in rules.policy.rank(front, rules.objectives, teacher_accuracy=teacher_accuracy)[:MAX_SUGGESTED]:
        yield Event(kind="suggest", params=by_number[number].params, source=source)


def _is_candidate(trial: Trial, rules: Rules) -> bool:
    is_known = all(math.isfinite(value) for value in pareto.losses(trial.values, rules.objectives))
    is_lost = trial.state in (TrialState.FAILED, TrialState.INFEASIBLE)
    return is_known and not is_lost and not constraints.excesses(rules.limits, trial.values) and is_in(rules.space, trial.params)
