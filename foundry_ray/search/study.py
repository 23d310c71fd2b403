"""A whole study on Ray: gather what trials share, replay the journal, run what is left, choose. And: finish the chosen trial.

A finished study costs a read of its journal; an interrupted one goes on where it was, with what its trials had trained.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.config import LatencyConfig, SearchConfig, Settings, StudentConfig
from foundry_ray.errors import OutOfRange, RecipeInfeasible, SearchError
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.schemas import images_only
from foundry_ray.search import constraints, schedulers
from foundry_ray.search.coordinator import Coordinator, Rules
from foundry_ray.search.events import Event, Job
from foundry_ray.search.journal import Journal
from foundry_ray.search.outcome import Progress, conclude
from foundry_ray.search.policy import parse_policy
from foundry_ray.search.sampler import Sampler
from foundry_ray.search.space import load_space
from foundry_ray.search.state import StudyState
from foundry_ray.search.targets import TargetSpec, has_logits, teacher_logits, trial_seed
from foundry_ray.search.trial import TrialContext, TrialRunner
from foundry_ray.types import CompressionRecipe, DatasetRef, ModelArtifact, Scalar, SearchSpace, StudyResult, Trial

if TYPE_CHECKING:
    import numpy as np

    from foundry_ray.compression import TrainedStudent
    from foundry_ray.runtime.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContext:
    """What a study is about, and where it finds it."""

    search: SearchConfig
    student: StudentConfig
    task: str
    augment: tuple[str, ...]
    seed: int
    dataset: DatasetRef
    teacher: ModelArtifact
    store: ArtifactStore
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyEnvironment:
    """What an actor needs to run trials; its arrays are read from shared memory."""

    shared: TrialContext
    store: ArtifactStore
    settings: Settings
    latency: LatencyConfig

    def runner(self, reporter: Reporter) -> Callable[[Job], Iterator[Event]]:
        """See `tune_adapter.Environment`."""
        from foundry_ray.clock import SystemClock
        from foundry_ray.evaluation.latency import RuntimeLatencyMeter
        from foundry_ray.evaluation.quiet import QuietGate

        clock, gate = SystemClock(), QuietGate(home=self.settings.home)

        def pause() -> None:
            gate.wait(clock)

        meter = RuntimeLatencyMeter(store=self.store, threads=self.latency.threads, budget_s=self.latency.budget_s, clock=clock, gate=gate)
        return TrialRunner(
            self.shared,
            store=self.store,
            meter=meter,
            clock=clock,
            reporter=reporter,
            between_steps=pause,
            device=_device(),
        )


def run_study(context: StudyContext, *, study_key: str, clock: Clock, reporter: Reporter, session: Session) -> StudyResult:
    """Propose, measure, train, stop at rungs, until the budget is spent; then choose on val.

    Raises:
        ConfigError: The data set is of something else than images.
        OutOfRange: A batch is larger than the training split.
        SearchSpaceError: The space cannot be sampled.
        NoFeasibleTrial: No finished trial keeps all constraints.
        SearchError: Every trial failed.
        Conflict: Another process took the study over.
    """
    images_only(context.dataset.schema, what="the search for a student")
    _check_batch(context)
    space = load_space(context.search.space, context.search)
    rules = _rules(context, space)
    state = StudyState(
        recipe_of=_recipe_of, num_rungs=len(schedulers.resources(context.search.scheduler)), max_failures=context.search.trial.max_failures
    )
    journal = Journal(context.store, f"studies/{study_key}/journal", driver=f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}")
    state.replay(journal.open())
    coordinator = Coordinator(rules, state=state, journal=journal, clock=clock, on_change=Progress(state, context.search.budget.trials, reporter))
    if coordinator.has_work():
        _execute(coordinator, context, space, study_key=study_key, reporter=reporter, session=session)
    return conclude(state, rules, study_key=study_key, constraint_texts=space.constraints, reporter=reporter)


def finish_trial(context: StudyContext, trial: Trial, *, stage_key: str, clock: Clock, reporter: Reporter) -> TrainedStudent:
    """Continue a trial from its last rung to `student.epochs`. Checkpoints lie under `stage_key`, so that a killed call continues."""
    from foundry_ray.evaluation.latency import RuntimeLatencyMeter

    logits_VNC = None if trial.recipe.step("distil") is None else teacher_logits(_target_spec(context), store=context.store, reporter=reporter)
    shared = _shared(context, logits_VNC, limits=(), prefix=f"checkpoints/{stage_key}")
    meter = RuntimeLatencyMeter(store=context.store, threads=1, budget_s=1.0, clock=clock)
    runner = TrialRunner(shared, store=context.store, meter=meter, clock=clock, reporter=reporter, device=_device())
    return runner.finish(trial, prefix=shared.prefix)


def _execute(coordinator: Coordinator, context: StudyContext, space: SearchSpace, *, study_key: str, reporter: Reporter, session: Session) -> None:
    from foundry_ray.search.tune_adapter import TuneExecutor, plan_slots

    resources = session.resources()
    limits = tuple(constraints.parse(text, where="search.constraints") for text in space.constraints)
    shared = _shared(context, _logits(context, space, resources, reporter, session), limits=limits, prefix=f"studies/{study_key}/trials")
    environment = StudyEnvironment(shared=shared, store=context.store, settings=context.settings, latency=context.search.latency)
    scratch = _scratch(context.settings, study_key)
    try:
        TuneExecutor(environment, slots=plan_slots(resources), scratch=scratch, reporter=reporter).run(coordinator)
    finally:
        coordinator.close()
    if coordinator.has_work():
        raise SearchError("Ray Tune ended before the study did, as on an interrupt; its state is saved.", hint="the same command continues it.")


def _scratch(settings: Settings, study_key: str) -> Path:
    """A new folder for Tune. What killed drivers of this study left is removed: whoever holds the study's lease is the only one."""
    folder = settings.home / "scratch"
    for left in folder.glob(f"{study_key[:12]}-*"):
        shutil.rmtree(left, ignore_errors=True)
    return folder / f"{study_key[:12]}-{secrets.token_hex(4)}"


def _logits(context: StudyContext, space: SearchSpace, resources: Mapping[str, float], reporter: Reporter, session: Session) -> np.ndarray | None:
    """In a worker, because the driver may be a laptop, and needs no torch this way."""
    if not any(param.name.startswith("distil") for param in space.params):
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


def _shared(context: StudyContext, logits_VNC: np.ndarray | None, *, limits: tuple[constraints.Constraint, ...], prefix: str) -> TrialContext:
    from foundry_ray import data
    from foundry_ray.artifacts import manifests

    store, key = context.store, context.teacher.artifact.key
    return TrialContext(
        train=data.load_split(context.dataset, "train", store=store),
        val=data.load_split(context.dataset, "val", store=store),
        logits_VNC=logits_VNC,
        teacher_description=json.loads(manifests.read_file(store, key, "architecture.json")),
        teacher_tensors=manifests.read_file(store, key, "model.safetensors"),
        family=context.teacher.family,
        schema=images_only(context.dataset.schema, what="the search for a student"),
        task=context.task,
        augment=context.augment,
        student=context.student,
        constraints=limits,
        batch_size=context.search.latency.batch_size,
        seed=trial_seed(context.seed),
        prefix=prefix,
    )


def _check_batch(context: StudyContext) -> None:
    """Refuse what every trial would die of."""
    batch_size, num_rows = context.student.batch_size, context.dataset.splits["train"].num_rows
    if batch_size > num_rows:
        message = f"student.batch_size is {batch_size}, but the training split has {num_rows} rows."
        raise OutOfRange(message, hint=f"set `student.batch_size` to {num_rows} or less.", key="student.batch_size", value=batch_size)


def _rules(context: StudyContext, space: SearchSpace) -> Rules:
    search = context.search
    accuracy = context.teacher.val_metrics.get("accuracy")
    if accuracy is None:
        raise SearchError("the teacher has no accuracy on val, wanted one to compare students with.", hint="`--fresh teacher` trains it again.")
    sampler = Sampler(kind=search.sampler, space=space, objectives=space.objectives, seed=context.seed)
    return Rules(
        scheduler=search.scheduler,
        budget=search.budget,
        sampler=sampler,
        policy=parse_policy(search.choose),
        teacher_accuracy=accuracy,
        trial_seed=trial_seed(context.seed),
    )


def _recipe_of(params: Mapping[str, Scalar]) -> CompressionRecipe:
    """An impossible recipe is told by the trial, which is then infeasible; here it is empty."""
    from foundry_ray.compression import recipe_from_params

    try:
        return recipe_from_params(params)[1]
    except RecipeInfeasible:
        return CompressionRecipe()


def _device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"
