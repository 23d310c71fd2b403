"""What belongs to a run, wherever it is read from: the store that exports it, or the archive that is imported. Pure but for the reading given.

A run's record leads to the results of its stages, those to artifacts, those to files, and to the registered version with its reports. Journals
and checkpoints lie in the folders of its stage keys. Caches, logs, aliases, tags and signatures stay where they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound
from foundry_ray.housekeeping.contents import Document
from foundry_ray.training.checkpoint.layout import FOLDER, SINGLE
from foundry_ray.types import Json, RegistryEntry, RunRecord, StudyResult, from_json

_ARTIFACT = re.compile(r"(artifacts/[^/]+/[0-9a-f]{64})(?:\.\d{1,8})?\.json")
_FOLLOWED = re.compile(r"artifacts/[a-z0-9_-]+/[0-9a-f]{64}(?:\.\d{1,8})?\.json|stages/[a-z]+/[0-9a-f]{32}\.json")
_RANKS = (
    re.compile(r"blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}|artifacts/.+"),
    re.compile(rf"studies/[0-9a-f]{{32}}/trials/\d{{6}}/{SINGLE}|checkpoints/[0-9a-f]{{32}}/(?:(?:{FOLDER})/rank-\d{{5}}.*|{SINGLE})"),
    re.compile(rf"checkpoints/[0-9a-f]{{32}}/(?:{FOLDER})/manifest\.json"),
    re.compile(r"studies/[0-9a-f]{32}/(?:journal(?:-snapshots)?/\d{8}|study\.json)"),
    re.compile(r"stages/.+"),
    re.compile(r"registry/[A-Za-z0-9_-]+/(?:versions/\d{8}|reports/\d{8}/\d{8})"),
    re.compile(r"runs/[A-Za-z0-9._-]+/record\.json"),
)
T = TypeVar("T")
Read: TypeAlias = "Callable[[str], tuple[Document, Json]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Belongings:
    """The documents of a run by their plain keys, the version that it registered, if it did, and the checkpoints of its study's front.

    A checkpoint of the front may lie with another study, from which this one took the trial over.
    """

    documents: Mapping[str, Document]
    registered: RegistryEntry | None
    front: frozenset[str]

    @property
    def stage_keys(self) -> frozenset[str]:
        """Whose folders hold its journals and checkpoints."""
        return frozenset(one for document in self.documents.values() for one in document.stage_keys)


def rank(key: str) -> int:
    """When an object comes in an archive and is written by an import: what others name, before them. Raises ArtifactCorrupt for no part of a run."""
    for number, pattern in enumerate(_RANKS):
        if pattern.fullmatch(key):
            return number
    raise ArtifactCorrupt(f"{key} is no part of a run.", hint="`foundry runs export` writes what can be imported.", key=key)


def record_key(run_id: str) -> str:
    """Where the record of a run lies."""
    return f"runs/{run_id}/record.json"


def collect(run_id: str, read: Read, list_reports: Callable[[str], list[str]]) -> Belongings:
    """Follow a run's record to every document that belongs to it.

    Args:
        run_id: The run.
        read: A document and its value, by key; it raises ArtifactNotFound or ArtifactCorrupt.
        list_reports: The keys of the reports of a version, by their folder.
    """
    document, value = read(record_key(run_id))
    record = from_json(RunRecord, value.get("record") if isinstance(value, dict) else None, what=document.key)
    documents = {document.key: document}
    registered, study = _output(record, "registry", RegistryEntry), _output(record, "search", StudyResult)
    waiting = _followed(document)
    if registered is not None:
        key = version_key(registered)
        documents[key], _ = read(key)
        waiting += _followed(documents[key])
    lost: dict[str, ArtifactNotFound] = {}
    while waiting:
        key = waiting.pop()
        if plain(key) not in documents:
            try:
                documents[plain(key)], _ = read(key)
                waiting += _followed(documents[plain(key)])
            except ArtifactNotFound as error:  # it may be named by another generation too
                lost[plain(key)] = error
    unfound = [key for key in lost if key not in documents]
    if unfound:
        raise lost[unfound[0]]
    for key in list_reports(f"registry/{registered.name}/reports/{registered.version:08d}/") if registered else ():
        report, _ = read(key)
        if all(plain(one) in documents for one in _followed(report)):  # those of other runs stay
            documents[key] = report
    return Belongings(documents=documents, registered=registered, front=_front_checkpoints(study) if study is not None else frozenset())


def _front_checkpoints(study: StudyResult) -> frozenset[str]:
    numbers = {*study.pareto_front, study.chosen}
    return frozenset(trial.checkpoint for trial in study.trials if trial.number in numbers and trial.checkpoint)


def plain(key: str) -> str:
    """The key of an artifact in its first generation: what it is, and not where it lies. Other keys are themselves."""
    found = _ARTIFACT.fullmatch(key)
    return f"{found.group(1)}.json" if found else key


def renamed(value: Json, name: Callable[[str], str]) -> Json:
    """A value with each string that is the key of an artifact replaced by another name of it. At most 100 levels deep, as all documents are."""
    if isinstance(value, str):
        return name(value) if _ARTIFACT.fullmatch(value) else value
    if isinstance(value, dict):
        return {key: renamed(item, name) for key, item in value.items()}
    return [renamed(item, name) for item in value] if isinstance(value, list) else value


def version_key(entry: RegistryEntry) -> str:
    """Where a registered version lies."""
    return f"registry/{entry.name}/versions/{entry.version:08d}"


def _followed(document: Document) -> list[str]:
    return [need.key for need in document.needs if _FOLLOWED.fullmatch(need.key)]


def _output(record: RunRecord, name: str, kind: type[T]) -> T | None:
    stage = record.stage(name)
    return from_json(kind, stage.outputs, what=f"the {name} stage of {record.run_id}") if stage and stage.outputs else None
