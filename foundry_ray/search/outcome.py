"""What is said of a study: its progress while it runs, and its result, or why there is none, when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from foundry_ray.errors import NoFeasibleTrial, SearchError
from foundry_ray.protocols import Reporter
from foundry_ray.search import constraints, pareto
from foundry_ray.search.coordinator import Rules
from foundry_ray.search.events import Event
from foundry_ray.search.state import StudyState
from foundry_ray.types import StudyResult, Trial, TrialState


def conclude(state: StudyState, rules: Rules, *, study_key: str, constraint_texts: Sequence[str], reporter: Reporter) -> StudyResult:
    """What came of a study whose work is done. Raises NoFeasibleTrial or SearchError."""
    objectives = rules.sampler.objectives
    trials = [_as_finished(trial) for trial in state.trials()]
    limits = [constraints.parse(text, where="search.constraints") for text in constraint_texts]
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and not constraints.excesses(limits, trial.values)]
    choice = rules.policy.choose(complete, objectives, teacher_accuracy=rules.teacher_accuracy)
    if choice is None:
        raise _nothing_found(trials, limits)
    if choice.warning:
        reporter.warn(f"search.choose: {choice.warning}")
    seen = [
        trial
        for trial in trials
        if "accuracy" in trial.values and state.records[trial.number].duplicate_of is None and not constraints.excesses(limits, trial.values)
    ]
    wanted = [trial for trial in seen if pareto.is_of_interest(trial.values, objectives)] or seen
    front = pareto.front([pareto.losses(trial.values, objectives) for trial in wanted])
    return StudyResult(
        study_name=f"study-{study_key[:8]}",
        study_key=study_key,
        trials=tuple(trials),
        objectives=objectives,
        pareto_front=tuple(wanted[index].number for index in front),
        chosen=choice.number,
        num_by_state={str(one): sum(trial.state is one for trial in trials) for one in TrialState if any(trial.state is one for trial in trials)},
        worker_seconds=sum(trial.duration_s for trial in trials),
    )


def _nothing_found(trials: Sequence[Trial], limits: Sequence[constraints.Constraint]) -> SearchError:
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    if failed and len(failed) == len(trials):
        return SearchError(f"all {len(trials)} trials failed, the first with: {failed[0].error}", hint="`foundry trials RUN` shows every error.")
    broken = [trial for trial in trials if trial.values and constraints.excesses(limits, trial.values)]
    nearest = min(broken, key=lambda trial: sum(constraints.excesses(limits, trial.values).values()), default=None)
    closest = f"trial {nearest.number}: {constraints.explain(limits, nearest.values)}" if nearest else next((str(one.error) for one in trials), "")
    return NoFeasibleTrial(
        f"none of {len(trials)} trials keeps all constraints; the closest is {closest.rstrip('.')}.",
        hint="loosen `search.constraints`, widen the space towards smaller students, or raise `search.budget.trials`.",
        num_trials=len(trials),
        closest=closest,
    )


def _as_finished(trial: Trial) -> Trial:
    """How a trial counts once its study is over: what still waits at a rung was stopped there."""
    return replace(trial, state=TrialState.STOPPED) if trial.state is TrialState.WAITING else trial


class Progress:
    """Tells a reporter what happens: each rung as a report, and a line with the counts and the best so far."""

    def __init__(self, state: StudyState, num_trials: int, reporter: Reporter) -> None:
        self._state = state
        self._num_trials = num_trials
        self._reporter = reporter
        self._num_reports = 0

    def __call__(self, event: Event) -> None:
        if event.kind == "rung":
            self._num_reports += 1
            self._reporter.report(self._num_reports, {"trial": float(event.number), "epoch": float(event.epoch), **event.values})
        if event.kind == "failed":
            self._reporter.warn(f"trial {event.number} failed: {event.error}")
        trials = self._state.trials()
        counts = {state: sum(trial.state is state for trial in trials) for state in TrialState}
        done = len(trials) - counts[TrialState.RUNNING]
        said = [f"{count} {state}" for state, count in counts.items() if count]
        best = max((trial.values["accuracy"] for trial in trials if "accuracy" in trial.values), default=None)
        if best is not None:
            said.append(f"best accuracy {best:.4f}")
        if event.kind == "epoch":
            said.append(f"trial {event.number} at epoch {event.epoch}")
        self._reporter.progress(done, max(self._num_trials, len(trials)), ", ".join(said))
