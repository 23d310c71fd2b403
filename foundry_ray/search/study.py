"""A whole study on Ray: gather what trials share, take the study over, run what is left, choose. And: finish a trial.

A finished study costs a read of its journal; an interrupted one goes on where it was, with what its trials had trained.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from foundry_ray.errors import OutOfRange, RecipeInfeasible, SearchError
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.schemas import classes_only
from foundry_ray.search import segments
from foundry_ray.search.coordinator import Coordinator
from foundry_ray.search.course import Course
from foundry_ray.search.environment import StudyContext, StudyEnvironment, device_here, local_meter, runtimes_of, shared_context, slot_bytes
from foundry_ray.search.events import Event
from foundry_ray.search.opening import StudyPlace, open_study
from foundry_ray.search.outcome import conclude, so_far
from foundry_ray.search.policy import parse_policy
from foundry_ray.search.progress import Progress
from foundry_ray.search.rules import Rules
from foundry_ray.search.samplers import Sampler
from foundry_ray.search.schedulers import make_scheduler
from foundry_ray.search.space import load_space
from foundry_ray.search.targets import TargetSpec, has_logits, teacher_logits, trial_seed, wants_logits
from foundry_ray.search.transfer import StudyIdentity, taken_over
from foundry_ray.search.trial import TrialRunner
from foundry_ray.types import CompressionRecipe, Scalar, SearchSpace, StudyResult, Trial

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.compression import TrainedStudent
    from foundry_ray.runtime.session import Session

__all__ = ["StudyContext", "beginning", "finish_trial", "run_study", "study_so_far"]


def run_study(context: StudyContext, *, study_key: str, clock: Clock, reporter: Reporter, session: Session) -> StudyResult:
    """Propose, measure, train, stop at rungs, until the budget is spent; then choose on val.

    Raises:
        ConfigError: The rows of the data set have no class, or the study extends one that is not there.
        OutOfRange: A batch is larger than the training split.
        SearchSpaceError: The space cannot be sampled.
        ResourcesUnavailable: Not one trial fits the cluster.
        NoFeasibleTrial: No finished trial keeps all constraints.
        SearchError: Every trial failed.
        Conflict: Another process took the study over.
    """
    classes_only(context.dataset.schema, what="the search for a student")
    _check_batch(context)
    rules = _rules(context)
    place = StudyPlace(store=context.store, study_key=study_key, driver=f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}")
    coordinator = open_study(rules, _identity(context, rules), place=place, clock=clock)
    coordinator.listen(Progress(coordinator, reporter=reporter, clock=clock))
    if coordinator.has_work():
        _execute(coordinator, context, prefix=place.trials, clock=clock, reporter=reporter, session=session)
    return conclude(coordinator, study_key=study_key, reporter=reporter)


def beginning(context: StudyContext) -> list[Event]:
    """What a study would take over from those that it extends. Reads, and begins nothing. Raises ConfigError where one of them is not there."""
    rules = _rules(context)
    return taken_over(rules, _identity(context, rules), context.store)


def study_so_far(context: StudyContext, *, study_key: str) -> StudyResult:
    """A study as its journal tells it, while somebody runs it, or after nobody could. Reads, and takes nothing over. Raises ArtifactCorrupt."""
    rules = _rules(context)
    course = Course(rules, prefix="")
    for event in segments.read(context.store, f"studies/{study_key}/journal").events:
        course.saw(event)
    return so_far(rules, course, study_key=study_key)


def finish_trial(context: StudyContext, trial: Trial, *, stage_key: str, clock: Clock, reporter: Reporter) -> TrainedStudent:
    """Continue a trial from its last rung, whichever that is, to `student.epochs`.

    Checkpoints lie under `stage_key`, so that a killed call continues.
    """
    from foundry_ray.compression import source_of

    is_cached = source_of(trial.recipe.step("distil")) == "cached"
    logits_VNC = teacher_logits(_target_spec(context), store=context.store, reporter=reporter) if is_cached else None
    shared = shared_context(context, SearchSpace(params=()), logits_VNC, prefix=f"checkpoints/{stage_key}")
    meter = local_meter(context.store, context.search.latency, settings=context.settings, clock=clock)
    runner = TrialRunner(shared, store=context.store, meter=meter, clock=clock, reporter=reporter, device=device_here())
    return runner.finish(trial, prefix=shared.prefix)


def _execute(coordinator: Coordinator, context: StudyContext, *, prefix: str, clock: Clock, reporter: Reporter, session: Session) -> None:
    from foundry_ray.search.pool.executor import PoolExecutor
    from foundry_ray.search.pool.slots import as_planned

    environment = _environment(context, coordinator.rules.space, prefix=prefix, clock=clock, reporter=reporter, session=session)
    trial = as_planned(context.search.trial, environment.slots)
    executor = PoolExecutor(environment, trial, nodes=session.nodes, clock=clock, reporter=reporter)
    try:
        executor.run(coordinator)
    finally:
        coordinator.close()
    if coordinator.has_work():
        raise SearchError("the study ended before its work did; its state is saved.", hint="the same command continues it.")


def _environment(context: StudyContext, space: SearchSpace, *, prefix: str, clock: Clock, reporter: Reporter, session: Session) -> StudyEnvironment:
    """What workers need. Raises ResourcesUnavailable where no trial fits, or no node measures."""
    from foundry_ray.search.pool.gang import RayGang
    from foundry_ray.search.pool.measuring import open_remote_meter
    from foundry_ray.search.pool.slots import plan_on_nodes
    from foundry_ray.training.scratch import scratch_for

    search, store, settings, resources, nodes = context.search, context.store, context.settings, session.resources(), [*session.nodes().values()]
    slots = plan_on_nodes(nodes, search.trial)  # first: what does not fit needs no logits
    meter = None
    if search.latency.device:
        here = local_meter(store, search.latency, settings=settings, clock=clock, runtimes=runtimes_of(space))
        meter = open_remote_meter(here, search.latency, resources)
    shared = shared_context(context, space, _logits(context, space, resources, reporter, session), prefix=prefix)
    scratch = scratch_for(store, settings.home, is_here=session.is_here())
    return StudyEnvironment(
        shared=shared,
        store=store,
        settings=settings,
        latency=search.latency,
        slots=slots,
        room_bytes=slot_bytes(nodes, search.trial.cpus),
        meter=meter,
        gang=None if slots.num_workers == 1 else RayGang(shared, slots, store=store, settings=settings, scratch=scratch),
    )


def _logits(context: StudyContext, space: SearchSpace, resources: Mapping[str, float], reporter: Reporter, session: Session) -> np.ndarray | None:
    """In a worker, because the driver may be a laptop, and needs no torch this way."""
    if not wants_logits(space):
        return None
    spec = _target_spec(context)
    if not has_logits(spec, context.store):
        num_gpus = 1 if resources.get("GPU", 0) >= 1 else 0
        session.call(_make_logits, spec, store=context.store, num_cpus=2, num_gpus=num_gpus, reporter=reporter)
    return teacher_logits(spec, store=context.store, reporter=reporter)


def _make_logits(spec: TargetSpec, *, store: ArtifactStore, reporter: Reporter) -> None:
    teacher_logits(spec, store=store, reporter=reporter)


def _target_spec(context: StudyContext) -> TargetSpec:
    return TargetSpec(
        dataset=context.dataset, teacher=context.teacher, augment=context.augment, views=context.student.target_views, seed=trial_seed(context.seed)
    )


def _check_batch(context: StudyContext) -> None:
    """Refuse what every trial would die of."""
    batch_size, num_rows = context.student.batch_size, context.dataset.splits["train"].num_rows
    if batch_size > num_rows:
        message = f"student.batch_size is {batch_size}, but the training split has {num_rows} rows."
        raise OutOfRange(message, hint=f"set `student.batch_size` to {num_rows} or less.", key="student.batch_size", value=batch_size)


def _rules(context: StudyContext) -> Rules:
    search, space = context.search, load_space(context.search.space, context.search)
    accuracy = context.teacher.val_metrics.get("accuracy")
    if accuracy is None:
        raise SearchError("the teacher has no accuracy on val, wanted one to compare students with.", hint="`--fresh teacher` trains it again.")
    return Rules(
        space=space,
        scheduler=search.scheduler,
        budget=search.budget,
        sampler=Sampler(kind=search.sampler, space=space, objectives=space.objectives, seed=context.seed),
        policy=parse_policy(search.choose),
        teacher_accuracy=accuracy,
        seed=context.seed,
        trial_seed=trial_seed(context.seed),
        max_failures=search.trial.max_failures,
        recipe_of=_recipe_of,
        extends=search.extends,
    )


def _identity(context: StudyContext, rules: Rules) -> StudyIdentity:
    return StudyIdentity(
        space=rules.space,
        dataset=context.dataset.fingerprint,
        teacher=context.teacher.artifact.sha256,
        training=context.training,
        levels=make_scheduler(rules.scheduler, rules.space, seed=rules.seed).levels,
        teacher_accuracy=rules.teacher_accuracy,
    )


def _recipe_of(params: Mapping[str, Scalar]) -> CompressionRecipe:
    """An impossible recipe is told by the trial, which is then infeasible; here it is empty."""
    from foundry_ray.compression import recipe_from_params

    try:
        return recipe_from_params(params)[1]
    except RecipeInfeasible:
        return CompressionRecipe()
