"""How a run's configuration becomes that of a larger study: more trials, another space, other objectives, any other key.

Decides what is asked for, and reads what came of it. What a study takes over from an earlier one is `transfer`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from foundry_ray.config import PipelineConfig, overridden, semantic, validate
from foundry_ray.errors import ConfigError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search import segments
from foundry_ray.search.finished import study_of
from foundry_ray.types import Json, RunRecord, StudyResult

_HINT = "`--trials 20`, `--space FILE`, `--objective latency_p95_ms:min`, or `--set search.budget.worker_hours=2`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a longer study does otherwise.

    Attributes:
        trials: So many more trials; None: as many as the run's budget says.
        space: Another file; None: the same.
        objectives: `metric:mode`, in place of the run's, the most important first; none: the same.
        overrides: `key=value`, of any key.
    """

    trials: int | None = None
    space: str | None = None
    objectives: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.trials is not None or self.space is not None or bool(self.objectives or self.overrides)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A study that went on from another one.

    Attributes:
        extended: Key of the study that it began with.
        study_key: Its own; equal where it is the same study with a larger budget.
        num_before: Trials of the study that it began with.
        num_adopted: Of these, how many are trials of this one, without being trained again.
        num_suggested: Parameters of its front that were to be tried first.
    """

    extended: str
    study_key: str
    num_before: int
    num_adopted: int
    num_suggested: int
    record: RunRecord


def changed_config(record: RunRecord, changes: Changes) -> PipelineConfig:
    """The configuration of a run with changes; its budget of trials is still the run's. Raises ConfigError, also where nothing is changed."""
    if not changes:
        raise ConfigError(f"nothing is changed of {record.run_id}, wanted more trials, another space, other objectives or another key.", hint=_HINT)
    if changes.trials is not None and any(one.startswith("search.budget.trials=") for one in changes.overrides):
        raise ConfigError("--trials and --set search.budget.trials both say how many trials there are to be.", hint="give one of them.")
    assert isinstance(record.config, dict)
    document = overridden(record.config, changes.overrides)
    search = document.setdefault("search", {})
    if changes.space is not None:
        search["space"] = changes.space
    if changes.objectives:
        search["objectives"] = [_objective(text) for text in changes.objectives]
    return validate(PipelineConfig, document, where=f"the record of run {record.run_id}")


def _objective(text: str) -> dict[str, Json]:
    metric, separator, mode = text.partition(":")
    if not separator or mode not in ("max", "min"):
        raise ConfigError(f"--objective got {text!r}, wanted metric:max or metric:min.", hint="for example `--objective accuracy:max`.")
    return {"metric": metric, "mode": mode}


def has_same_data(config: PipelineConfig, other: PipelineConfig) -> bool:
    """Whether both prepare the same data and train the same teacher."""

    def facts(one: PipelineConfig) -> Json:
        return [semantic(one.data), semantic(one.teacher), one.task, one.seed]

    return facts(config) == facts(other)


def with_budget(config: PipelineConfig, changes: Changes, *, num_before: int, is_same: bool) -> PipelineConfig:
    """With so many more trials as are asked for, or else as the run had.

    Args:
        config: As `changed_config` made it.
        changes: What is asked for.
        num_before: Trials that the study begins with.
        is_same: It is the same study with a larger budget; its number of trials stays where none is asked for.
    """
    budget = config.search.budget
    if any(one.startswith("search.budget.trials=") for one in changes.overrides) or (is_same and changes.trials is None):
        return config
    trials = num_before + (changes.trials if changes.trials is not None else budget.trials)
    return with_search(config, budget=budget.model_copy(update={"trials": trials}))


def with_search(config: PipelineConfig, **fields: object) -> PipelineConfig:
    """With other values of keys of `search`."""
    return config.model_copy(update={"search": config.search.model_copy(update=fields)})


def extension_of(study: StudyResult, record: RunRecord, store: ArtifactStore) -> Extension:
    """What came of a run that went on from a study."""
    own = study_of(record)
    adopted, suggested = (0, 0) if own.study_key == study.study_key else count_taken_over(store, own.study_key)
    return Extension(
        extended=study.study_key,
        study_key=own.study_key,
        num_before=len(study.trials),
        num_adopted=adopted,
        num_suggested=suggested,
        record=record,
    )


def count_taken_over(store: ArtifactStore, study_key: str) -> tuple[int, int]:
    """How many trials a study took over, and how many parameters were suggested to it: as its journal says."""
    kinds = [event.kind for event in segments.read(store, f"studies/{study_key}/journal").events]
    return kinds.count("adopt"), kinds.count("suggest")
