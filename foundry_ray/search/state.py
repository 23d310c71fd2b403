"""What the events add up to: the trials of a study, as they stand.

`StudyState.apply` is the only way in which a trial changes, while a study runs and when it is replayed alike; so a resumed study
knows exactly what the interrupted one knew. No event costs more for there being many trials.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from foundry_ray.search.events import Event
from foundry_ray.types import CompressionRecipe, Scalar, Trial, TrialState

RecipeOf = Callable[[Mapping[str, Scalar]], CompressionRecipe]
_RESULTS = ("accuracy", "val_loss", "loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial with what the study needs to know of it.

    Attributes:
        target: Index of the rung that it runs to, or reached.
        by_rung: Metrics at each rung that it reached.
        checkpoints: Keys of its states at these rungs; the earlier ones may be gone.
        known: What was measured before training; empty until it is prepared.
        effective: Hash of what it really is; empty until it is prepared, and once it took over weights.
        graph: Hash of the deployed graph, which its latency belongs to.
        duplicate_of: The trial whose values answer for it.
        donors: The trials whose weights it took over, in turn.
        own_from: Index of the first rung whose metrics are of its present parameters; those below are of a donor.
        source: Key of the study that it, or its parameters, come from.
        is_adopted: That study has trained it.
        num_memory_deaths: Times that its process was ended because its node had no memory left.
    """

    trial: Trial
    target: int = 0
    by_rung: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    checkpoints: Mapping[int, str] = field(default_factory=dict)
    known: Mapping[str, float] = field(default_factory=dict)
    effective: str = ""
    graph: str = ""
    excess: float = 0.0
    duplicate_of: int | None = None
    donors: tuple[int, ...] = ()
    own_from: int = 0
    attrs: Mapping[str, Scalar] = field(default_factory=dict)
    source: str = ""
    is_adopted: bool = False
    num_memory_deaths: int = 0

    @property
    def is_postponed(self) -> bool:
        """Whether it is prepared and waits for its first epoch."""
        return self.trial.state is TrialState.WAITING and bool(self.known) and not self.by_rung


class StudyState:
    """All trials by number.

    Args:
        recipe_of: The recipe that parameters stand for.
        levels: Epochs at each rung; the last one completes a trial.

    Attributes:
        records: In the order of their numbers.
        counts: Trials by state.
        running: Numbers of those that run, or were interrupted.
        suggestions: Parameters that are to be tried before a sampler is asked, each with the study that it comes from.
    """

    def __init__(self, *, recipe_of: RecipeOf, levels: Sequence[int]) -> None:
        self._recipe_of = recipe_of
        self.levels = tuple(levels)
        self.records: dict[int, TrialRecord] = {}
        self.counts: Counter[TrialState] = Counter()
        self.running: set[int] = set()
        self.suggestions: list[tuple[Mapping[str, Scalar], str]] = []
        self._owners: dict[str, int] = {}
        self._by_graph: defaultdict[str, list[int]] = defaultdict(list)
        self._copies: defaultdict[int, list[int]] = defaultdict(list)

    def apply(self, event: Event) -> None:
        """Let one event happen."""
        if event.kind in ("open", "close", "epoch"):
            return
        if event.kind == "suggest":
            self.suggestions.append((dict(event.params), event.source))
            return
        if event.kind in ("ask", "adopt"):
            self._put(self._asked(event) if event.kind == "ask" else self._adopted(event))
            return
        if event.kind == "measured":
            for number in self.sharing_graph(event.number):
                self._put(_measured(self.records[number], event, len(self.levels)))
            return
        record = _CHANGES[event.kind](self, self.records[event.number], event)
        self._put(record)
        for number in self._copies.get(event.number, ()) if event.kind == "rung" else ():
            copy = self.records[number]
            self._put(replace(copy, trial=replace(copy.trial, values=record.trial.values)))

    def owner_of(self, effective: str) -> int | None:
        """The trial that is this model with these hyperparameters, if there is one."""
        return self._owners.get(effective)

    def sharing_graph(self, number: int) -> list[int]:
        """This trial and all others whose deployed graph is the same."""
        graph = self.records[number].graph
        return self._by_graph[graph] if graph else [number, *self._copies.get(number, ())]

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers, as they stand."""
        return [record.trial for record in self.records.values()]

    def _put(self, record: TrialRecord) -> None:
        number, before = record.trial.number, self.records.get(record.trial.number)
        if before is not None:
            self.counts[before.trial.state] -= 1
        self.counts[record.trial.state] += 1
        if record.trial.state is TrialState.RUNNING:
            self.running.add(number)
        else:
            self.running.discard(number)
        self.records[number] = record

    def _asked(self, event: Event) -> TrialRecord:
        if event.source:
            self.suggestions.pop(0)
        return TrialRecord(trial=self._trial(event), target=event.rung, attrs=dict(event.attrs), source=event.source)

    def _trial(self, event: Event) -> Trial:
        return Trial(
            trial_id=f"t{event.number:05d}",
            number=event.number,
            params=dict(event.params),
            recipe=self._recipe_of(event.params),
            state=TrialState.RUNNING,
            seed=event.seed,
            bracket=event.bracket,
        )

    def _adopted(self, event: Event) -> TrialRecord:
        """A trial of another study with its learning curve: it has reached each rung that the curve reaches."""
        known, rows = dict(event.values), {int(row["epoch"]): row for row in event.curve}
        reached = {index: rows[epoch] for index, epoch in enumerate(self.levels) if epoch in rows and epoch <= event.epoch}
        by_rung = {index: {**known, **_results(row)} for index, row in reached.items()}
        rung = max(by_rung, default=None)
        state = TrialState.WAITING if rung != len(self.levels) - 1 else TrialState.COMPLETE
        trial = replace(
            self._trial(event),
            state=TrialState.INFEASIBLE if event.excess else state,
            rung=rung,
            resource_used=event.epoch,
            values=known if rung is None else by_rung[rung],
            curve=tuple(event.curve),
            checkpoint=event.checkpoint,
            error=event.error or None,
            device=event.device,
        )
        record = TrialRecord(trial=trial, target=rung or 0, by_rung=by_rung, known=known, excess=event.excess, source=event.source, is_adopted=True)
        record = replace(record, checkpoints={rung: event.checkpoint} if rung is not None and event.checkpoint else {})
        return record if event.excess else self._identified(record, event)

    def _identified(self, record: TrialRecord, event: Event) -> TrialRecord:
        if event.effective:
            self._owners.setdefault(event.effective, event.number)
        if event.graph:
            self._by_graph[event.graph].append(event.number)
        return replace(record, effective=event.effective, graph=event.graph)

    def _start(self, record: TrialRecord, event: Event) -> TrialRecord:
        error = record.trial.error if record.by_rung else None  # why it was postponed is over
        return replace(record, target=event.rung, trial=replace(record.trial, state=TrialState.RUNNING, error=error))

    def _exploit(self, record: TrialRecord, event: Event) -> TrialRecord:
        """The donor's weights and curve until then, with parameters that are its own from here on; so it stands for no other trial any more."""
        donor, epoch = self.records[event.of], self.levels[event.from_rung]
        if self._owners.get(record.effective) == event.number:
            del self._owners[record.effective]
        self._copies.pop(event.number, None)
        metrics = {index: values for index, values in donor.by_rung.items() if index <= event.from_rung}
        trial = replace(
            record.trial,
            params=dict(event.params),
            recipe=self._recipe_of(event.params),
            state=TrialState.RUNNING,
            rung=event.from_rung,
            resource_used=epoch,
            values=metrics.get(event.from_rung, record.trial.values),
            curve=tuple({**row, "from_trial": float(event.of)} for row in donor.trial.curve if row["epoch"] <= epoch),
            checkpoint=donor.checkpoints.get(event.from_rung),
        )
        checkpoints = {index: key for index, key in donor.checkpoints.items() if index == event.from_rung}
        donors = (*record.donors, event.of)
        record = replace(record, target=event.rung, effective="", by_rung=metrics, checkpoints=checkpoints, donors=donors, trial=trial)
        return replace(record, own_from=event.from_rung + 1)

    def _prepared(self, record: TrialRecord, event: Event) -> TrialRecord:
        duration_s = record.trial.duration_s + event.duration_s
        trial = replace(record.trial, values=dict(event.values), device=event.device, duration_s=duration_s)
        return self._identified(replace(record, known=dict(event.values), trial=trial), event)

    def _postponed(self, record: TrialRecord, event: Event) -> TrialRecord:
        record = self._prepared(record, event)
        error = f"it could join the front only as the best of all: trial {event.of} is among the best, and costs no more"
        return replace(record, trial=replace(record.trial, state=TrialState.WAITING, error=error))

    def _rung(self, record: TrialRecord, event: Event) -> TrialRecord:
        trial = replace(
            record.trial,
            state=TrialState.COMPLETE if event.rung == len(self.levels) - 1 else TrialState.WAITING,
            rung=event.rung,
            resource_used=event.epoch,
            values={**record.known, **event.values},
            curve=(*record.trial.curve, *event.curve),
            checkpoint=event.checkpoint,
            duration_s=record.trial.duration_s + event.duration_s,
        )
        checkpoints = {**record.checkpoints, event.rung: event.checkpoint} if event.checkpoint else record.checkpoints
        return replace(record, by_rung={**record.by_rung, event.rung: trial.values}, checkpoints=checkpoints, trial=trial)

    def _duplicate(self, record: TrialRecord, event: Event) -> TrialRecord:
        original = self.records[event.of]
        error = f"the same as trial {event.of} after rounding, whose values these are"
        self._copies[event.of].append(event.number)
        if original.graph:
            self._by_graph[original.graph].append(event.number)
        trial = replace(record.trial, state=TrialState.STOPPED, values=original.trial.values, device=original.trial.device, error=error)
        return replace(record, duplicate_of=event.of, graph=original.graph, trial=trial)

    def _infeasible(self, record: TrialRecord, event: Event) -> TrialRecord:
        """Also one that is dominated: its values are real, and it is no candidate either."""
        trial = replace(record.trial, state=TrialState.INFEASIBLE, values=dict(event.values), error=event.error, device=event.device)
        dominated = event.error if event.kind == "dominated" else ""
        trial = replace(trial, duration_s=trial.duration_s + event.duration_s, dominated=dominated)
        return replace(record, excess=event.excess, effective=event.effective, trial=trial)

    def _died(self, record: TrialRecord, event: Event) -> TrialRecord:
        trial = replace(record.trial, num_failures=record.trial.num_failures + 1, error=event.error)
        return replace(record, trial=trial, num_memory_deaths=record.num_memory_deaths + event.is_out_of_memory)

    def _failed(self, record: TrialRecord, event: Event) -> TrialRecord:
        return replace(record, trial=replace(record.trial, state=TrialState.FAILED, error=event.error))


def _measured(record: TrialRecord, event: Event, num_rungs: int) -> TrialRecord:
    """The latency on another device takes the place of the one before, at all rungs.

    A trial that is too slow there is no candidate there; one that has results, and is not too slow any more, is one again.
    """
    new = dict(event.values)
    trial = replace(record.trial, device=event.device, values={**record.trial.values, **new})
    if event.excess and trial.state in (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE):
        trial = replace(trial, state=TrialState.INFEASIBLE, error=event.error)
    elif not event.excess and trial.state is TrialState.INFEASIBLE and record.by_rung:
        trial = replace(trial, state=TrialState.COMPLETE if trial.rung == num_rungs - 1 else TrialState.WAITING, error=None)
    by_rung = {index: {**values, **new} for index, values in record.by_rung.items()}
    return replace(record, known={**record.known, **new}, by_rung=by_rung, excess=event.excess, trial=trial)


def _results(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name in _RESULTS}


_CHANGES: Mapping[str, Callable[[StudyState, TrialRecord, Event], TrialRecord]] = {
    "start": StudyState._start,
    "prepared": StudyState._prepared,
    "postponed": StudyState._postponed,
    "rung": StudyState._rung,
    "exploit": StudyState._exploit,
    "duplicate": StudyState._duplicate,
    "dominated": StudyState._infeasible,
    "infeasible": StudyState._infeasible,
    "died": StudyState._died,
    "failed": StudyState._failed,
}
