"""Which parameters mattered, objective by objective: PED-ANOVA (arXiv 2304.10255; for parameters that exist only beside others, 2601.20800).

The importance of a parameter is how differently its values are spread among the best trials and among all. Decides which trials
compare: those of an objective that is known before training all do, accuracies only where they are of one epoch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_ray.protocols import ArtifactStore
from foundry_ray.search import pareto
from foundry_ray.search.distributions import distributions
from foundry_ray.search.finished import space_of, study_of
from foundry_ray.types import Objective, RunRecord, Scalar, SearchSpace, StudyResult, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_TRIALS = 10
"""Fewer say nothing: half of them would be the best ones."""
_TRAINED = "accuracy"  # all else is known before training
_ENOUGH = 20
_BEST = 0.1
_MIN_BEST = 5  # as PedAnovaImportanceEvaluator recommends


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Of the parameters for one objective.

    Attributes:
        num_trials: How many trials compare.
        epoch: After which their values are compared; 0 for what is known before training.
        shares: By parameter, the most important first; they sum to 1. Empty where nothing can be said.
        why_not: Why nothing can be said.
    """

    metric: str
    num_trials: int
    epoch: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)
    why_not: str = ""


def importances(study: StudyResult, space: SearchSpace | None) -> tuple[Importance, ...]:
    """One an objective, in their order."""
    return tuple(_importance(study, objective, space) for objective in study.objectives)


def importances_of(record: RunRecord, store: ArtifactStore) -> tuple[Importance, ...]:
    """Those of the study of a run; none where the run has no finished study."""
    search = record.stage("search")
    if search is None or search.outputs is None:
        return ()
    study = study_of(record)
    return importances(study, space_of(study, store))


def that_matter(found: Sequence[Importance], *, num: int = 3) -> tuple[str, ...]:
    """The `num` parameters with the largest share of any objective, the largest first; empty where nothing can be said of any."""
    largest: dict[str, float] = {}
    for importance in found:
        for name, share in importance.shares.items():
            largest[name] = max(share, largest.get(name, 0.0))
    return tuple(sorted(largest, key=lambda name: -largest[name])[:num])


def _importance(study: StudyResult, objective: Objective, space: SearchSpace | None) -> Importance:
    epoch = _epoch(study.trials, objective.metric) if objective.metric == _TRAINED else 0
    points = [(trial, pareto.losses({objective.metric: _value(trial, objective.metric, epoch)}, [objective])[0]) for trial in study.trials]
    points = [(trial, loss) for trial, loss in points if math.isfinite(loss) and trial.params]
    why_not = _why_not([loss for _, loss in points])
    if why_not:
        return Importance(metric=objective.metric, num_trials=len(points), epoch=epoch, why_not=why_not)
    shares = _shares([trial.params for trial, _ in points], [loss for _, loss in points], distributions([trial for trial, _ in points], space))
    why_not = "" if shares else "no parameter is spread otherwise among the best than among all"
    return Importance(metric=objective.metric, num_trials=len(points), epoch=epoch, shares=shares, why_not=why_not)


def _why_not(losses: Sequence[float]) -> str:
    if len(losses) < MIN_TRIALS:
        return f"{len(losses)} trials compare, wanted {MIN_TRIALS} or more"
    if sorted(losses)[_num_best(len(losses)) - 1] == max(losses):
        return f"the best {_num_best(len(losses))} of {len(losses)} trials are no better than the rest"
    return ""


def _num_best(num_trials: int) -> int:
    return max(_MIN_BEST, math.ceil(_BEST * num_trials))


def _epoch(trials: Sequence[Trial], metric: str) -> int:
    """The last epoch that enough trials came to; or the first at which trials were compared."""
    levels = sorted({trial.resource_used for trial in trials if trial.resource_used})
    reached = {level: sum(math.isfinite(_value(trial, metric, level)) for trial in trials) for level in levels}
    return max((level for level in levels if reached[level] >= _ENOUGH), default=levels[0] if levels else 0)


def _value(trial: Trial, metric: str, epoch: int) -> float:
    """Of a trial after `epoch` epochs; as it was measured before training where that is 0."""
    if not epoch:
        return trial.values.get(metric, math.nan)
    return next((point[metric] for point in trial.curve if point.get("epoch") == epoch and metric in point), math.nan)


def _shares(params: Sequence[Mapping[str, Scalar]], losses: Sequence[float], ranges: Mapping[str, BaseDistribution]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize")
    study.add_trials(
        optuna.trial.create_trial(params=dict(one), distributions={name: ranges[name] for name in one}, value=loss)
        for one, loss in zip(params, losses, strict=True)
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_num_best(len(losses)) / len(losses))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some regimes for parameter")  # few trials have it: its share is small then
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    is_told = len(found) == 1 or len(set(found.values())) > 1  # all equal: all were zero
    return found if is_told else {}
