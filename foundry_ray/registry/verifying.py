"""`foundry models verify`: looks at everything that a version promises, and says each point."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from foundry_ray.artifacts import manifests
from foundry_ray.artifacts.cache import uncached
from foundry_ray.config import SigningKeys
from foundry_ray.errors import FoundryError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import reading, records, signatures
from foundry_ray.types import EvaluationReport, Finding, Json, RegistryEntry

_SERVED_FILE = "model.onnx"
_REGISTER_AGAIN = "`foundry run` with the same pipeline makes and registers it again."
_MAKE_AGAIN = "`--fresh student` makes it again."
Load = Callable[[bytes, Json], object]


def verify(store: ArtifactStore, reference: str, *, load: Load, keys: SigningKeys | None = None) -> tuple[Finding, ...]:
    """Everything that can be checked of a version, in order. Reads all its files; what is wrong is a finding and not an error.

    Args:
        store: Where.
        reference: `name@alias` or `name:version`.
        load: Loads a served file as its signature says; raises a FoundryError where it cannot.
        keys: What the environment says of signatures; read from there where absent.

    Raises:
        ConfigError, ArtifactNotFound: As `resolve`.
        StoreUnavailable: The store did not answer; nothing is said.
    """
    store = uncached(store)
    entry = reading.show(store, reference)
    return (*_signed(store, entry, keys), *_files(store, entry, load), *_report(store, entry), *_lineage(store, entry))


def _signed(store: ArtifactStore, entry: RegistryEntry, keys: SigningKeys | None) -> Iterator[Finding]:
    state = signatures.signature_state(store, entry, keys=keys)
    is_asked_for = bool(signatures.open_keys(keys).verifiers)
    fix = f"`foundry models sign {entry.name}:{entry.version}`" if is_asked_for else "set FOUNDRY_VERIFY_KEY"
    yield Finding(name="signature", is_ok=state.status == "valid", detail=state.detail, fix=fix, is_optional=not is_asked_for)


def _files(store: ArtifactStore, entry: RegistryEntry, load: Load) -> Iterator[Finding]:
    reference = entry.model.artifact
    try:
        manifest = manifests.load_manifest(store, reference.key)
    except FoundryError as error:
        yield _failed("manifest", error, _MAKE_AGAIN)
        return
    is_same = manifest.sha256 == reference.sha256
    detail = f"sha256 {manifest.sha256[:12]}" if is_same else f"sha256 {manifest.sha256[:12]}, registered was {reference.sha256[:12]}"
    yield Finding(name="manifest", is_ok=is_same, detail=detail, fix=_REGISTER_AGAIN)
    for name in sorted(manifest.files):
        yield from _file(store, reference.key, name, lambda data: load(data, manifest.meta))
    if _SERVED_FILE not in manifest.files:
        yield Finding(name=_SERVED_FILE, is_ok=False, detail="the artifact has no such file", fix=_MAKE_AGAIN)


def _file(store: ArtifactStore, key: str, name: str, load: Callable[[bytes], object]) -> Iterator[Finding]:
    try:
        data = manifests.read_file(store, key, name)
    except FoundryError as error:
        yield _failed(name, error, _MAKE_AGAIN)
        return
    yield Finding(name=name, is_ok=True, detail=f"{len(data)} bytes, sha256 as in the manifest")
    if name == _SERVED_FILE:
        try:
            load(data)
        except FoundryError as error:
            yield _failed(f"{name} loads", error, _MAKE_AGAIN)
        else:
            yield Finding(name=f"{name} loads", is_ok=True, detail="in the runtime that serves it")


def _report(store: ArtifactStore, entry: RegistryEntry) -> Iterator[Finding]:
    try:
        report = records.read_report(store, entry.report)
    except FoundryError as error:
        yield _failed("report", error, "`--fresh evaluation` makes it again.")
        return
    passed = entry.passed and report.passed
    failed = ", ".join(gate.name for gate in report.gates if not gate.passed)
    detail = "passed" if passed else f"not passed: {failed or 'the registry says so'}"
    yield Finding(name="report", is_ok=passed, detail=detail, fix="`foundry models show` prints the gates.")
    yield _subject(entry, report)


def _subject(entry: RegistryEntry, report: EvaluationReport) -> Finding:
    judged, ours = report.student.model_sha256, entry.model.artifact.sha256
    detail = "it judged this model" if judged == ours else f"it judged model {judged[:12]}, and this is {ours[:12]}"
    return Finding(name="report's model", is_ok=judged == ours, detail=detail, fix=_REGISTER_AGAIN)


def _lineage(store: ArtifactStore, entry: RegistryEntry) -> Iterator[Finding]:
    lineage = entry.lineage
    if lineage is None:
        yield Finding(name="lineage", is_ok=False, detail="it is not known what it was made of", fix=_REGISTER_AGAIN, is_optional=True)
        return
    for name, key, fix in (("data set", lineage.dataset_key, "`--fresh data`"), ("teacher", lineage.teacher, "`--fresh teacher`")):
        is_there = store.stat(key) is not None
        yield Finding(name=name, is_ok=is_there, detail=key if is_there else f"{key} is gone", fix=f"{fix} makes it again.")


def _failed(name: str, error: FoundryError, fix: str) -> Finding:
    if error.retryable:
        raise error
    return Finding(name=name, is_ok=False, detail=error.message, fix=error.hint or fix)
