"""The teacher's stage: where it is trained, what is made of it, and who is told.

Decides: that one worker with the torch engine trains in this process where the cluster is the local head, and so without Ray, and in one
worker of any other cluster, and in another one where that died. Leaves to others: training (`training.trainer`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from foundry_ray.config import PipelineConfig, TeacherConfig
from foundry_ray.context import Context
from foundry_ray.errors import WorkerGroupFailed
from foundry_ray.protocols import Reporter
from foundry_ray.training.checks import ignored, resolved_engine
from foundry_ray.types import DatasetRef, ModelArtifact, to_json

if TYPE_CHECKING:
    from foundry_ray.runtime.session import Session
    from foundry_ray.training.attempts import Ledger


def train_teacher(config: PipelineConfig, dataset: DatasetRef, stage_key: str, *, context: Context) -> ModelArtifact:
    """Train, or go on where an earlier run stopped, and track what happens. Raises as `trainer.fit`."""
    from foundry_ray.training.trackers import Tracked, open_trackers

    for sentence in ignored(config.teacher):
        context.reporter.warn(sentence)
    document = config.teacher.model_dump(mode="json")
    params = {"teacher": to_json(document), "task": config.task, "seed": config.seed}
    told, clock = context.reporter, context.clock
    with open_trackers(context.settings, name=config.name, stage_key=stage_key, params=params, reporter=told, clock=clock) as trackers:
        return _trained(config, dataset, stage_key, context=context, reporter=Tracked(told, trackers))


def _trained(config: PipelineConfig, dataset: DatasetRef, stage_key: str, *, context: Context, reporter: Reporter) -> ModelArtifact:
    from foundry_ray.compression.cost import cost
    from foundry_ray.compression.export import to_onnx
    from foundry_ray.training.attempts import Ledger
    from foundry_ray.training.elastic import MemoryLimit
    from foundry_ray.training.rank import RankJob
    from foundry_ray.training.trainer import fit

    store, settings, clock, is_classified = context.store, context.settings, context.clock, bool(dataset.schema.classes)

    def teacher(*, session: Session | None, reporter: Reporter) -> ModelArtifact:
        return fit(
            config.teacher,
            task=config.task,
            dataset=dataset,
            augment=config.data.augment,
            seed=config.seed,
            stage_key=stage_key,
            store=store,
            settings=settings,
            reporter=reporter,
            session=session,
            export=(lambda model: to_onnx(model, dataset.schema)) if is_classified else None,
            cost=lambda model: cost(model, dataset.schema),
            clock=clock,
        )

    if resolved_engine(config.teacher) == "deepspeed":
        context.libraries = ("ray.train.torch", "foundry_ray.training.group")
        return teacher(session=context.session, reporter=reporter)
    if context.is_local:
        return teacher(session=None, reporter=reporter)
    job = RankJob(
        config=config.teacher, task=config.task, dataset=dataset, augment=config.data.augment, seed=config.seed, stage_key=stage_key, store=store
    )
    return _in_a_worker(teacher, Ledger(job=job, reporter=reporter, limit=MemoryLimit()), context.session)


def _in_a_worker(teacher: Callable[..., ModelArtifact], ledger: Ledger, session: Session) -> ModelArtifact:
    """Train in one worker of the cluster. Its death, or its node's, is answered as that of a group is: another goes on from the last checkpoint."""
    from foundry_ray.training.failures import FailureKind, RankFailure

    config, reporter = ledger.job.config, ledger.reporter
    num_cpus, num_gpus = config.cpus_per_worker, _num_gpus(config, session)
    session.require({"CPU": num_cpus, "GPU": num_gpus}, "teacher.cpus_per_worker")
    while True:
        try:
            return session.call(teacher, session=None, num_cpus=num_cpus, num_gpus=num_gpus, reporter=reporter)
        except WorkerGroupFailed as error:
            failure = RankFailure(rank=0, kind=FailureKind.DIED, text=error.message)
            if error.__cause__ is None or failure.is_out_of_memory:  # training's own end; or a node without memory, which would come again
                raise
            ledger.failed(ledger.attempt(1), (failure,))


def _num_gpus(config: TeacherConfig, session: Session) -> float:
    """Of the one worker that trains."""
    has_one = session.resources().get("GPU", 0.0) >= config.gpus_per_worker
    return config.gpus_per_worker if config.use_gpu is True or (config.use_gpu == "auto" and has_one) else 0.0
