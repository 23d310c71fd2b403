"""READ FIRST: the whole product in the order in which it happens.

    data -> teacher -> search -> student -> evaluation -> registry -> serving

Each stage is one call that turns typed values into one typed value. `StageRunner.do` reuses what is done under the same key,
`keys` says what a key is made of. No DAG engine: the order of the lines is the order of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray import keys
from foundry_ray.clock import utc
from foundry_ray.config import PipelineConfig, ServeConfig, StoreConfig, validate
from foundry_ray.context import Context, open_context
from foundry_ray.runlog import find_run, new_run_id
from foundry_ray.stages import AsFarAsAsked, StageRunner, library_versions
from foundry_ray.types import (
    DatasetRef,
    Endpoint,
    EvaluationReport,
    Json,
    ModelArtifact,
    RegistryEntry,
    RunRecord,
    RunStatus,
    StudyResult,
    Trial,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from foundry_ray.search.study import StudyContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A configured pipeline in its surroundings. `run()` does everything; the other methods are its stages, in order."""

    config: PipelineConfig
    context: Context

    def run(
        self,
        *,
        fresh: Collection[str] = (),
        until: str | None = None,
        again: RunRecord | None = None,
        source: str = "",
        on_start: Callable[[str], None] = lambda run_id: None,
    ) -> RunRecord:
        """Do what is not done yet, and say what came of it.

        Args:
            fresh: Stages to do again although their result exists.
            until: The last stage to do; `foundry resume` goes on with the others.
            again: The record of the run to resume; None starts a new one.
            source: Where the configuration came from, for the record.
            on_start: Told the run's id before the first stage.

        Returns:
            The closed record: DONE, or REJECTED where a gate said no.
        """
        stages = StageRunner(self.context, again or self._new_record(source), fresh=fresh, until=until)
        on_start(stages.record.run_id)
        return _told(stages, self._story)

    def run_another(self, origin: RunRecord, study: StudyResult) -> RunRecord:
        """Finish the trial that a finished study chooses now, and go on as `run` does. Nothing is searched or trained but that trial.

        Args:
            origin: The run that found it, whose data set and teacher are taken as they are.
            study: Its study, chosen from by `config.search.choose`.
        """

        def story(stages: StageRunner) -> bool:
            dataset, teacher = stages.take("data", origin, DatasetRef), stages.take("teacher", origin, ModelArtifact)
            chosen = stages.do("search", keys.result(self.config, study.study_key), lambda: study, StudyResult)
            return self._finish(stages, dataset, teacher, chosen)

        return _told(StageRunner(self.context, self._new_record(f"another trial of {origin.run_id}")), story)

    def _story(self, stages: StageRunner) -> bool:
        config, settings = self.config, self.context.settings
        dataset = stages.do("data", keys.data(config, settings), self.prepare_data, DatasetRef)

        teacher_key = keys.teacher(config, dataset)
        teacher = stages.do("teacher", teacher_key, lambda: self.train_teacher(dataset, teacher_key), ModelArtifact)

        study_key, result_key = keys.study(config, dataset, teacher)
        study = stages.do("search", result_key, lambda: self.search(dataset, teacher, study_key), StudyResult, progress_key=study_key)
        return self._finish(stages, dataset, teacher, study)

    def _finish(self, stages: StageRunner, dataset: DatasetRef, teacher: ModelArtifact, study: StudyResult) -> bool:
        config = self.config
        student_key = keys.student(config, study)
        student = stages.do("student", student_key, lambda: self.make_student(dataset, teacher, study.chosen_trial, student_key), ModelArtifact)

        report_key = keys.evaluation(config, dataset, teacher, student)
        report = stages.do("evaluation", report_key, lambda: self.evaluate(dataset, teacher, student), EvaluationReport)

        entry_key = keys.registry(config, student, report_key)
        entry = stages.do("registry", entry_key, lambda: self.register(student, report, report_key, stages.record), RegistryEntry)

        if config.serve.enabled and report.passed:
            stages.reconcile("serving", lambda: self.serve(entry, report, dataset))
        return report.passed

    def prepare_data(self) -> DatasetRef:
        """Clean, split once, fingerprint."""
        from foundry_ray import data

        context = self.context
        return data.prepare(
            self.config.data, task=self.config.task, seed=self.config.seed, store=context.store, settings=context.settings, reporter=context.reporter
        )

    def train_teacher(self, dataset: DatasetRef, stage_key: str) -> ModelArtifact:
        """Ray Train + DeepSpeed, or one process where one worker is all that is asked for; the best epoch by val."""
        from foundry_ray.teacher import train_teacher

        return train_teacher(self.config, dataset, stage_key, context=self.context)

    def study_context(self, dataset: DatasetRef, teacher: ModelArtifact) -> StudyContext:
        """What the study is about, and where it finds it."""
        from foundry_ray.search.study import StudyContext

        return StudyContext(
            search=self.config.search,
            student=self.config.student,
            task=self.config.task,
            augment=self.config.data.augment,
            seed=self.config.seed,
            dataset=dataset,
            teacher=teacher,
            store=self.context.store,
            settings=self.context.settings,
            training=keys.training(self.config),
        )

    def search(self, dataset: DatasetRef, teacher: ModelArtifact, study_key: str) -> StudyResult:
        """Propose, measure, train, stop at rungs; choose on val."""
        from foundry_ray.search.study import run_study

        context = self.context
        return run_study(
            self.study_context(dataset, teacher), study_key=study_key, clock=context.clock, reporter=context.reporter, session=context.session
        )

    def make_student(self, dataset: DatasetRef, teacher: ModelArtifact, trial: Trial, stage_key: str) -> ModelArtifact:
        """Continue a trial to its full budget, then quantize, export and prove parity."""
        from foundry_ray.student import make_student

        context = self.context
        resources = context.session.resources()
        return context.session.call(
            make_student,
            self.study_context(dataset, teacher),
            trial,
            stage_key=stage_key,
            clock=context.clock,
            num_cpus=1,
            num_gpus=1 if resources.get("GPU", 0) >= 1 else 0,
            reporter=context.reporter,
            export=self.config.export,
        )

    def evaluate(self, dataset: DatasetRef, teacher: ModelArtifact, student: ModelArtifact) -> EvaluationReport:
        """Teacher against student on test, which is opened here with the frozen student's hash."""
        from foundry_ray import evaluation

        context = self.context
        return evaluation.evaluate(
            teacher,
            student,
            dataset=dataset,
            gates=self.config.gates,
            latency=self.config.search.latency,
            task=self.config.task,
            store=context.store,
            settings=context.settings,
            clock=context.clock,
            reporter=context.reporter,
        )

    def register(self, student: ModelArtifact, report: EvaluationReport, report_key: str, record: RunRecord) -> RegistryEntry:
        """Always stored, with what it was made of; `champion` moves only to a version that passed."""
        from foundry_ray import registry

        entry = registry.register(
            self.context.store,
            name=self.config.name,
            model=student,
            report_key=f"stages/evaluation/{report_key}.json",
            passed=report.passed,
            run_id=record.run_id,
            clock=self.context.clock,
            lineage=registry.lineage_of_run(record, keys.code(self.config)),
            by=self.context.settings.who,
        )
        return replace(entry, lineage=None)  # the version keeps it; the run's record is what it was taken from

    def serve(self, entry: RegistryEntry, report: EvaluationReport, dataset: DatasetRef) -> Endpoint:
        """Deploy, and ask the endpoint about real test images."""
        from foundry_ray.compression import runtime_of
        from foundry_ray.endpoints import ask, deploy_entry

        serve = self.config.serve
        own = runtime_of(entry.model.recipe).threads
        measured = serve.model_copy(update={"threads": serve.threads or own or self.config.search.latency.threads})
        endpoint = deploy_entry(entry, measured, context=self.context)
        ask(endpoint, report, dataset, num_requests=serve.num_requests, context=self.context)
        return endpoint

    def _new_record(self, source: str) -> RunRecord:
        clock = self.context.clock
        return RunRecord(
            run_id=new_run_id(self.config.name, clock),
            pipeline=self.config.name,
            config=to_json(self.config.model_dump(mode="json")),
            versions=library_versions(),
            started_at=utc(clock.now_s()),
            source=source,
        )


def run(config: PipelineConfig, *, context: Context | None = None, fresh: Collection[str] = (), source: str = "") -> RunRecord:
    """Run a pipeline. See `Pipeline.run`. Without a context, the pipeline's own store and cluster, closed at the end."""
    with _surroundings(context, store=config.store, cluster=config.cluster) as around:
        around.limits = config.limits
        return Pipeline(config=config, context=around).run(fresh=fresh, source=source)


def resume(name: str, *, context: Context | None = None, cluster: str | None = None) -> RunRecord:
    """Go on with an interrupted or failed run, by its id, the beginning of it, or `latest`, on the cluster it had or on another one."""
    with _surroundings(context) as around:
        record = find_run(around.store, name)
        config = validate(PipelineConfig, record.config, where=f"the record of run {record.run_id}")
        around.limits, around.cluster = config.limits, cluster or config.cluster
        return Pipeline(config=config, context=around).run(again=record, source=record.source)


def deploy(model: str, serve: ServeConfig | None = None, *, context: Context | None = None) -> Endpoint:
    """Serve a registered version, `name@alias` or `name:version`. The deployment outlives the command."""
    from foundry_ray import endpoints

    with _surroundings(context) as around:
        return endpoints.deploy(model, serve or ServeConfig(), context=around)


def predict(model: str, source: Path, *, context: Context | None = None) -> tuple[Json, ...]:
    """Batch inference from the store, without a server."""
    from foundry_ray import endpoints

    with _surroundings(context) as around:
        return endpoints.predict(model, source, context=around)


def _told(stages: StageRunner, story: Callable[[StageRunner], bool]) -> RunRecord:
    """The record of a story, closed however it ends."""
    try:
        return stages.finish(RunStatus.DONE if story(stages) else RunStatus.REJECTED)
    except AsFarAsAsked:
        return stages.finish(_verdict(stages.record))
    except BaseException as error:
        stages.fail(error)
        raise


def _verdict(record: RunRecord) -> RunStatus:
    """Of a run that ended early: what the gates said, if it came to them."""
    evaluated = record.stage("evaluation")
    if evaluated is None or evaluated.outputs is None:
        return RunStatus.DONE
    return RunStatus.DONE if from_json(EvaluationReport, evaluated.outputs, what="report").passed else RunStatus.REJECTED


@contextmanager
def _surroundings(context: Context | None, *, store: StoreConfig | None = None, cluster: str = "local") -> Iterator[Context]:
    """The caller's, which stays open; or new ones from the environment."""
    if context is not None:
        yield context
        return
    with open_context(store, cluster=cluster) as opened:
        yield opened
