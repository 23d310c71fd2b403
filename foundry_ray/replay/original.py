"""What a registered version was: its lineage, its report, and the hashes of its files. Only reads the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from foundry_ray import registry
from foundry_ray.artifacts.manifests import load_manifest
from foundry_ray.config import PipelineConfig, validate
from foundry_ray.errors import ArtifactNotFound
from foundry_ray.protocols import ArtifactStore
from foundry_ray.replay.comparing import Making
from foundry_ray.runlog import read_result
from foundry_ray.types import DatasetRef, EvaluationReport, Lineage, ModelArtifact, RegistryEntry, from_json

WEIGHTS = "model.safetensors"
SERVED = "model.onnx"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A version, what it was made of, and what that came to."""

    entry: RegistryEntry
    lineage: Lineage
    config: PipelineConfig
    making: Making

    @property
    def name(self) -> str:
        return f"{self.entry.name}:{self.entry.version}"

    def dataset(self, store: ArtifactStore) -> DatasetRef:
        """The data set that it was made of. Raises ArtifactNotFound."""
        return self._output(store, "data", DatasetRef)

    def teacher(self, store: ArtifactStore) -> ModelArtifact:
        """The teacher that it learnt from. Raises ArtifactNotFound."""
        return self._output(store, "teacher", ModelArtifact)

    def _output(self, store: ArtifactStore, stage: str, kind: type[T]) -> T:
        key = self.lineage.stages[stage]
        result = read_result(store, stage, key)
        if result is None:
            message = f"the {stage} result of {self.name} is not in {store.uri} any more, wanted it for `--only student`."
            raise ArtifactNotFound(message, hint="without `--only` it is made again.", key=f"stages/{stage}/{key}.json")
        return from_json(kind, result.outputs, what=f"stages/{stage}/{key}.json")


def find_original(store: ArtifactStore, reference: str) -> Original:
    """The version behind `name@alias` or `name:version`, ready to be compared with.

    Raises:
        ArtifactNotFound: There is no such version; or it has no lineage, or its report or a manifest is gone.
        ConfigError: Its configuration is none that this foundry reads.
    """
    entry = registry.resolve(store, reference)
    lineage = entry.lineage
    if lineage is None:
        raise _without_lineage(entry)
    missing = sorted({"data", "teacher", "student"} - set(lineage.stages))
    if missing:
        raise _without_stages(entry, missing)
    config = validate(PipelineConfig, lineage.config, where=f"the lineage of {entry.name}:{entry.version}")
    return Original(entry=entry, lineage=lineage, config=config, making=_making(store, entry, lineage))


def _without_lineage(entry: RegistryEntry) -> ArtifactNotFound:
    name = f"{entry.name}:{entry.version}"
    run = f"the record of its run {entry.run_id} is gone or incomplete" if entry.run_id else "it names no run"
    return ArtifactNotFound(
        f"{name} has no lineage, so nobody knows what it was made of: it was registered without one, and {run}.",
        hint="`foundry run` with the pipeline that made it registers a version that can be replayed.",
        key=name,
    )


def _without_stages(entry: RegistryEntry, missing: Sequence[str]) -> ArtifactNotFound:
    name = f"{entry.name}:{entry.version}"
    message = f"the lineage of {name} lacks the keys of the stages {', '.join(missing)}, wanted them to make it again."
    return ArtifactNotFound(message, hint="`foundry run` with the pipeline that made it registers a version that can be replayed.", key=name)


def _making(store: ArtifactStore, entry: RegistryEntry, lineage: Lineage) -> Making:
    student = entry.model.artifact.key
    return Making(
        data_fingerprint=lineage.dataset_fingerprint,
        teacher_weights=file_sha256(store, lineage.teacher, WEIGHTS),
        student_weights=file_sha256(store, student, WEIGHTS),
        served_file=file_sha256(store, student, SERVED),
        report=_report(store, entry, lineage),
    )


def file_sha256(store: ArtifactStore, key: str, name: str) -> str:
    """Hash of one file of an artifact, from its manifest. Raises ArtifactNotFound where it has no such file."""
    files = load_manifest(store, key).files
    if name not in files:
        message = f"{key} has no file {name!r}, wanted its hash; it has {', '.join(sorted(files)[:20])}."
        raise ArtifactNotFound(message, hint="only what `foundry run` trained can be replayed.", key=key)
    return files[name].sha256


def _report(store: ArtifactStore, entry: RegistryEntry, lineage: Lineage) -> EvaluationReport:
    """Its own run's; a later run may have judged the same version by other gates."""
    own = lineage.stages.get("evaluation")
    return registry.read_report(store, f"stages/evaluation/{own}.json" if own else entry.report)
