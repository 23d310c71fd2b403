"""A finished run with all that it leaves in a store, made of a few bytes: for tests of what keeps, moves and judges stores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from foundry_ray.artifacts.manifests import publish, put_json
from foundry_ray.clock import utc
from foundry_ray.protocols import ArtifactStore, Clock
from foundry_ray.registry import register
from foundry_ray.runlog import StageResult, commit_result, forget_result, save_run
from foundry_ray.search import segments
from foundry_ray.search.events import Event
from foundry_ray.search.journal import Journal
from foundry_ray.search.transfer import StudyIdentity, write_identity
from foundry_ray.testing import samples
from foundry_ray.testing.clock import FakeClock
from foundry_ray.training.checkpoint import Checkpoint
from foundry_ray.training.checkpoint.commit import Draft, commit, find_parts
from foundry_ray.training.checkpoint.layout import FileInfo, Index, data_name, index_name
from foundry_ray.types import (
    ArtifactRef,
    DatasetRef,
    ImageSchema,
    Json,
    Param,
    Preprocessing,
    RunRecord,
    RunStatus,
    SearchSpace,
    SplitInfo,
    StageRecord,
    StageStatus,
    StudyResult,
    Trial,
    canonical_bytes,
    canonical_sha256,
    from_json,
    to_json,
)

RUN_ID = "mnist-20260101-000000-aaaa"


def stage_key_of(stage: str, seed: int = 0) -> str:
    """The stage key that a stored run has for a stage (`study` for its journal)."""
    return canonical_sha256([stage, seed])[:32]


def store_run(store: ArtifactStore, *, clock: Clock, run_id: str = RUN_ID, seed: int = 0, num_files: int = 20, config: Json = None) -> RunRecord:
    """Store a run that is done, with data set, teacher, study, student, report, registered version, journal and checkpoints.

    Args:
        store: Where to.
        clock: Dates what is written.
        run_id: Its name.
        seed: Another one makes another teacher and student; the data set is the same for all.
        num_files: Files of the data set; many small ones are packed.
        config: Its configuration; its name alone where absent.
    """
    run = _Run(store, clock, run_id, seed, config or {"name": "mnist"})
    dataset = _dataset(run.publish("dataset", {f"part-{number:03d}.npy": b"rows %d" % number for number in range(num_files)}))
    teacher = replace(samples.model("teacher"), artifact=run.publish("model", {"model.onnx": b"teacher %d" % seed}), parents=(dataset.key,))
    parents = (teacher.artifact.key,)
    files = {"model.onnx": b"student %d" % seed, "model.safetensors": bytes(300_000)}
    student = replace(samples.model(), artifact=run.publish("model", files, {"parents": list(parents)}), parents=parents)
    run.finish("data", to_json(dataset))
    run.finish("teacher", to_json(teacher))
    run.finish("search", run.search())
    run.finish("student", to_json(student))
    report = replace(samples.report(), model=student.artifact.key)
    report_key = run.finish("evaluation", to_json(report))
    entry = register(store, name="mnist", model=student, report_key=report_key, passed=True, run_id=run_id, clock=clock)
    run.finish("registry", to_json(entry))
    run.checkpoints()
    return run.save()


def store_extending_run(store: ArtifactStore, first: RunRecord, *, clock: Clock, run_id: str = "mnist-20260102-000000-bbbb") -> RunRecord:
    """Store a run like `store_run`'s whose chosen trial is one that the study of `first` stopped: its checkpoint lies there."""
    record = store_run(store, clock=clock, run_id=run_id, seed=1)
    theirs, ours = (from_json(StudyResult, _search(one).outputs, what="study") for one in (first, record))
    taken = replace(ours.trials[0], checkpoint=theirs.trials[2].checkpoint)
    search = replace(_search(record), outputs=to_json(replace(ours, trials=(taken, *ours.trials[1:]))))
    record = replace(record, stages=tuple(search if stage.name == "search" else stage for stage in record.stages))
    save_run(store, record)
    forget_result(store, "search", search.key)
    commit_result(store, "search", search.key, StageResult(outputs=search.outputs, run_id=run_id, created_at="", duration_s=1.0, versions={}))
    return record


def _search(record: RunRecord) -> StageRecord:
    stage = record.stage("search")
    assert stage is not None, "a stored run has a study"
    return stage


def identity_of(seed: int = 0) -> StudyIdentity:
    """What a stored run's study is of."""
    space = SearchSpace(params=(Param(name="lr", kind="float", low=1e-3, high=0.1, log=True),), objectives=samples.OBJECTIVES)
    return StudyIdentity(space=space, dataset="f" * 64, teacher=f"teacher {seed}", training="x", levels=(1, 3, 9), teacher_accuracy=0.95)


def _events(trial: Trial) -> Iterator[Event]:
    """The life of a trial that was trained to the last rung."""
    known = {name: value for name, value in trial.values.items() if name != "accuracy"}
    yield Event(kind="ask", number=trial.number, params=trial.params)
    yield Event(kind="prepared", number=trial.number, values=known, effective=f"model {trial.number}", device="recorded")
    accuracy = {"accuracy": trial.values["accuracy"]}
    yield Event(kind="rung", number=trial.number, rung=2, epoch=9, values=accuracy, curve=trial.curve, checkpoint=trial.checkpoint)


def compact(store: ArtifactStore, seed: int = 0) -> str:
    """Put the first segment of a stored run's journal into a snapshot, and take it away. Returns its key."""
    prefix = f"studies/{stage_key_of('study', seed)}/journal"
    events = [canonical_bytes(event.to_json()) for event in segments.read(store, prefix).events[:1]]
    store.put(segments.snapshot_key(prefix, 1), segments.snapshot(events, number=1, openings=[0]))
    store.delete(segments.key(prefix, 0))
    return segments.key(prefix, 0)


def store_checkpoint(store: ArtifactStore, stage_key: str, *, epoch: int, data: bytes, attempt: str = "a") -> Checkpoint:
    """Store a committed checkpoint of one rank after 10 steps an epoch, whose bytes are no tensors."""
    draft = Draft(stage_key=stage_key, step=10 * epoch, epoch=epoch, world_size=1, attempt=attempt, document={}, meta={})
    whole = FileInfo(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    store.put(draft.folder + data_name(0), data)
    put_json(store, draft.folder + index_name(0), to_json(Index(data=whole, blocks=(), own=())))
    parts = find_parts(store, draft.folder, 1)
    assert parts is not None, "they have just been stored"
    return commit(store, draft, parts, clock=FakeClock(1_767_225_600.0))


class _Run:
    def __init__(self, store: ArtifactStore, clock: Clock, run_id: str, seed: int, config: Json) -> None:
        self._store = store
        self._seed = seed
        self._time = utc(clock.now_s())
        self._record = RunRecord(run_id=run_id, pipeline="mnist", config=config, versions={"ray": "2.60.0"}, source="pipeline.yaml")

    def publish(self, kind: str, files: Mapping[str, bytes], meta: Json = None) -> ArtifactRef:
        return publish(self._store, kind=kind, files=files, meta=meta, created_at=self._time)

    def finish(self, stage: str, outputs: Json) -> str:
        """The key of the stage's result."""
        key = stage_key_of(stage, 0 if stage == "data" else self._seed)
        result = StageResult(outputs=outputs, run_id=self._record.run_id, created_at=self._time, duration_s=1.0, versions={})
        commit_result(self._store, stage, key, result)
        done = StageRecord(name=stage, key=key, status=StageStatus.DONE, outputs=outputs, duration_s=1.0)
        self._record = replace(self._record, stages=(*self._record.stages, done))
        return f"stages/{stage}/{key}.json"

    def search(self) -> Json:
        """Store a journal of two segments, what the study is of, and three trials with checkpoints; returns the result that names them."""
        study_key = stage_key_of("study", self._seed)
        journal = Journal(self._store, f"studies/{study_key}/journal", driver=f"driver {self._seed}")
        journal.open()
        trials = []
        for trial in samples.study().trials:
            checkpoint = self._put_hashed(f"studies/{study_key}/trials/{trial.number:06d}", b"trial %d" % trial.number)
            trials.append(replace(trial, checkpoint=checkpoint))
            for event in _events(trials[-1]):
                journal.append(event)
        journal.close()
        write_identity(self._store, study_key, identity_of(self._seed))
        return to_json(replace(samples.study(), study_key=study_key, trials=tuple(trials)))

    def checkpoints(self) -> None:
        """Two of the teacher, one of the student."""
        for epoch in (1, 2):
            store_checkpoint(self._store, stage_key_of("teacher", self._seed), epoch=epoch, data=b"epoch %d of %d" % (epoch, self._seed))
        self._put_hashed(f"checkpoints/{stage_key_of('student', self._seed)}", b"student epoch")

    def save(self) -> RunRecord:
        self._record = replace(self._record, status=RunStatus.DONE, started_at=self._time, ended_at=self._time)
        save_run(self._store, self._record)
        return self._record

    def _put_hashed(self, folder: str, data: bytes) -> str:
        data += b" of %d" % self._seed
        key = f"{folder}/000001-{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
        self._store.put(key, data)
        return key


def _dataset(artifact: ArtifactRef) -> DatasetRef:
    return DatasetRef(
        key=artifact.key,
        fingerprint="f" * 64,
        task="image_classification",
        splits={"train": SplitInfo(num_rows=3, num_bytes=30)},
        schema=ImageSchema(channels=1, height=2, width=2, dtype="uint8", classes=("a", "b")),
        preprocessing=Preprocessing(mean=(0.0,), std=(1.0,)),
    )
