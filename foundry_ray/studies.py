"""What a user does with the study of a run: read it while it runs, serve another of its trials, or go on from what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from foundry_ray import keys
from foundry_ray.config import PipelineConfig, ServeConfig, validate
from foundry_ray.context import Context
from foundry_ray.pipeline import Pipeline
from foundry_ray.runlog import find_run
from foundry_ray.search import extending
from foundry_ray.search.extending import Changes, Extension
from foundry_ray.search.finished import choose, config_of, output_of, study_of
from foundry_ray.types import DatasetRef, Json, ModelArtifact, RunRecord, RunStatus, StudyResult


def study_as_it_stands(record: RunRecord, context: Context) -> StudyResult:
    """The study of a run: its result, or as far as it is. Raises ArtifactNotFound where none was begun."""
    from foundry_ray.search.study import study_so_far

    search = record.stage("search")
    if search is None or search.outputs is not None or not search.progress_key:
        return study_of(record)
    dataset, teacher = output_of(record, "data", DatasetRef), output_of(record, "teacher", ModelArtifact)
    about = Pipeline(config=config_of(record), context=context).study_context(dataset, teacher)
    return study_so_far(about, study_key=search.progress_key)


def deploy_another(run: str, policy: str, *, context: Context, serve: Mapping[str, Json] | None = None, cluster: str | None = None) -> RunRecord:
    """Serve another trial of a run's finished study: choose it, finish it, evaluate and register it, and deploy it if it passes the run's gates.

    Args:
        run: A run id, the beginning of one, or `latest`.
        policy: As `search.choose`; `trial 7` names one that was finished, or one of the front.
        context: The surroundings.
        serve: Keys of `serve` that differ from the run's.
        cluster: Where to; None is where the run was.

    Returns:
        The record of a new run: DONE, or REJECTED where a gate said no, and nothing was deployed.

    Raises:
        ArtifactNotFound: There is no such run, or it has no finished study.
        ConfigError: The policy is none, or names a trial that cannot be chosen.
        NoFeasibleTrial: No trial can be chosen.
    """
    origin = find_run(context.store, run)
    study = choose(origin, policy, store=context.store, reporter=context.reporter)
    config = extending.with_search(config_of(origin), choose=policy)
    serving = validate(ServeConfig, {**config.serve.model_dump(), "enabled": True, **(serve or {})}, where="serve")
    context.limits, context.cluster = config.limits, cluster or config.cluster
    record = Pipeline(config=config.model_copy(update={"serve": serving}), context=context).run_another(origin, study)
    if record.status is RunStatus.DONE:
        context.keep()  # only now: where nothing serves, nothing needs to stay
    return record


def extend_study(
    run: str, changes: Changes, *, context: Context, cluster: str | None = None, on_start: Callable[[str], None] = lambda run_id: None
) -> Extension:
    """Run a larger study that begins with what the finished study of a run found, and all that follows from it.

    The same study goes on where only its budget, or what comes after it, changes; else a new one takes over what it can.

    Args:
        run: A run id, the beginning of one, or `latest`.
        changes: What is to be otherwise.
        context: The surroundings.
        cluster: Where to; None is where the run was.
        on_start: As of `Pipeline.run`.

    Raises:
        ArtifactNotFound: There is no such run, or it has no finished study.
        ConfigError: Nothing is changed, or to what no configuration can be.
    """
    origin = find_run(context.store, run)
    study = study_of(origin)
    config = _extended(origin, study, changes, context)
    context.limits, context.cluster = config.limits, cluster or config.cluster
    source = f"{study.study_name} of {origin.run_id}, extended"
    record = Pipeline(config=config, context=context).run(source=source, on_start=on_start)
    return extending.extension_of(study, record, context.store)


def _extended(origin: RunRecord, study: StudyResult, changes: Changes, context: Context) -> PipelineConfig:
    """The configuration of a run, changed, with the study that it extends, unless it is that study."""
    from foundry_ray.search.study import beginning

    config = extending.changed_config(origin, changes)
    dataset, teacher = output_of(origin, "data", DatasetRef), output_of(origin, "teacher", ModelArtifact)
    has_same_data = extending.has_same_data(config, config_of(origin))
    if has_same_data and keys.study(config, dataset, teacher)[0] == study.study_key:
        return extending.with_budget(config, changes, num_before=len(study.trials), is_same=True)
    config = extending.with_search(config, extends=(study.study_key,))
    events = beginning(Pipeline(config=config, context=context).study_context(dataset, teacher)) if has_same_data else []
    return extending.with_budget(config, changes, num_before=sum(event.kind == "adopt" for event in events), is_same=False)
