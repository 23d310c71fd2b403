"""What came of a study when its work is done: its result, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from foundry_ray.errors import NoFeasibleTrial, SearchError
from foundry_ray.protocols import Reporter
from foundry_ray.search import budget, constraints, pareto
from foundry_ray.search.constraints import Constraint
from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.course import Course
from foundry_ray.search.history import study_history
from foundry_ray.search.rules import Rules
from foundry_ray.search.state import StudyState
from foundry_ray.types import StudyResult, Trial, TrialState

_NO_CANDIDATE = (TrialState.FAILED, TrialState.INFEASIBLE)


def conclude(coordinator: Coordinator, *, study_key: str, reporter: Reporter) -> StudyResult:
    """What came of a study. Raises NoFeasibleTrial or SearchError."""
    rules, limits = coordinator.rules, coordinator.rules.limits
    found = so_far(rules, coordinator.course, study_key=study_key)
    trials = tuple(map(_as_finished, found.trials))
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and not constraints.excesses(limits, trial.values)]
    choice = rules.policy.choose(complete, rules.objectives, teacher_accuracy=rules.teacher_accuracy)
    if choice is None:
        raise _nothing_found(trials, limits)
    if choice.warning:
        reporter.warn(f"search.choose: {choice.warning}")
    return replace(found, trials=trials, chosen=choice.number, num_by_state=_counted(trials), stopped_by=coordinator.stopped_by)


def so_far(rules: Rules, course: Course, *, study_key: str) -> StudyResult:
    """A study as it stands, whether it is over or not. Nothing is chosen, which `chosen` says as -1."""
    state, ledger = course.state, course.ledger
    trials, worker_s = tuple(state.trials()), ledger.worker_s(ledger.at_s)
    return StudyResult(
        study_name=f"study-{study_key[:8]}",
        study_key=study_key,
        trials=trials,
        objectives=rules.objectives,
        pareto_front=tuple(front_of(state, rules)),
        chosen=-1,
        num_by_state=_counted(trials),
        worker_seconds=worker_s,
        history=study_history(ledger.reports, state.records, rules.objectives),
        cost=budget.cost(rules.budget, worker_s),
    )


def _counted(trials: Sequence[Trial]) -> dict[str, int]:
    return {str(one): count for one in TrialState if (count := sum(trial.state is one for trial in trials))}


def front_of(state: StudyState, rules: Rules) -> list[int]:
    """Numbers of the trials that nothing dominates, by the last values of each; who lacks one, or is no candidate, is not among them."""
    limits = rules.limits
    seen = [
        record.trial
        for record in state.records.values()
        if record.by_rung
        and record.duplicate_of is None
        and record.trial.state not in _NO_CANDIDATE
        and not constraints.excesses(limits, record.trial.values)
    ]
    wanted = [trial for trial in seen if pareto.is_of_interest(trial.values, rules.objectives)] or seen
    return [wanted[index].number for index in pareto.front([pareto.losses(trial.values, rules.objectives) for trial in wanted])]


def _nothing_found(trials: Sequence[Trial], limits: Sequence[Constraint]) -> SearchError:
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
