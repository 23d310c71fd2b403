"""Reads a run from a file into a store (`foundry runs import`): all of it is checked before any of it is written.

The first pass reads the archive to its end, holds every byte against its hash, parses every document, and checks that the archive holds what its
run names, all of it and nothing else. Then the store is asked whether it holds the same objects with other content. Only then does a second
pass publish the artifacts; documents follow in the order in which they name each other, and the run's record is last. A second import finds
everything there and changes nothing.

The archive is believed about what the run was: whoever imports it says that its results may be reused.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from foundry_ray import registry
from foundry_ray.artifacts.blobs import blob_key
from foundry_ray.artifacts.cache import uncached
from foundry_ray.artifacts.manifests import parse_manifest, publish
from foundry_ray.errors import ArtifactCorrupt, ConfigError, Conflict, StoreError
from foundry_ray.housekeeping.archive import ArchiveReader, Listed, reading
from foundry_ray.housekeeping.belongings import Belongings, collect, plain, rank, record_key, renamed
from foundry_ray.housekeeping.contents import MAX_DOCUMENT_BYTES, Document, is_document, parse_document
from foundry_ray.housekeeping.journals import missing_segments
from foundry_ray.housekeeping.sameness import is_same
from foundry_ray.housekeeping.stretches import sha256_of
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.types import Json, RegistryEntry, canonical_bytes, from_json

_MAX_KEPT_BYTES = 256 << 20  # all documents of a run together; a study with 10,000 trials has about 50 MB
_HINT = "`foundry runs export` writes what can be imported."


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did. `num_new` objects were not there before, apart from files; `model` is the version that the run's model has here."""

    run_id: str
    num_objects: int
    num_new: int
    size_bytes: int
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """An archive that holds what it says: its list, its documents as bytes, and what belongs to its run."""

    objects: dict[str, Listed]
    documents: dict[str, bytes]
    found: Belongings
    run_id: str


def import_run(store: ArtifactStore, path: Path, *, max_bytes: int, scratch: Path, reporter: Reporter) -> Imported:
    """Read a run from an archive into a store.

    Args:
        store: Where to.
        path: What `export_run` wrote.
        max_bytes: Most bytes that the archive may hold.
        scratch: A folder for the files of one artifact at a time, and of those that share files with it.
        reporter: Told how far it is.

    Raises:
        ConfigError: There is no such file, or it is of another kind.
        OutOfRange: It holds more than `max_bytes`.
        ArtifactCorrupt: It is not what an export writes. Nothing was written.
        StoreError: A later foundry wrote it. Nothing was written.
        Conflict: The store has an object of the run with other content. Nothing was written, unless somebody else wrote it meanwhile.
    """
    store = uncached(store)
    with reading(path, max_bytes=max_bytes) as archive:
        checked = _check(archive, reporter)
    _check_conflicts(store, checked)
    writer = _Writer(store=store, checked=checked, reporter=reporter)
    scratch.mkdir(parents=True, exist_ok=True)
    with reading(path, max_bytes=max_bytes) as archive, tempfile.TemporaryDirectory(dir=scratch, prefix="import-") as folder:
        writer.write_objects(archive, Path(folder))
    model = writer.write_documents()
    size = sum(one.size_bytes for one in checked.objects.values())
    return Imported(run_id=checked.run_id, num_objects=len(checked.objects), num_new=writer.num_new, size_bytes=size, model=model)


def _check(archive: ArchiveReader, reporter: Reporter) -> _Checked:
    documents: dict[str, bytes] = {}
    kept_bytes, done, last = 0, 0, 0
    for listed, content in archive.objects():
        number = rank(listed.key)
        if number < last:
            raise ArtifactCorrupt(f"{listed.key} comes after objects that name it.", hint=_HINT, key=listed.key)
        last = number
        if is_document(listed.key):
            kept_bytes += listed.size_bytes if not _is_of_a_study(listed.key) else 0
            if listed.size_bytes > MAX_DOCUMENT_BYTES or kept_bytes > _MAX_KEPT_BYTES:
                raise ArtifactCorrupt(f"{listed.key}: the documents of the archive are larger than those of a run.", hint=_HINT, key=listed.key)
            _take_document(listed.key, b"".join(content), documents)
        elif listed.key.startswith("blobs/") and listed.key != blob_key(listed.sha256):
            raise ArtifactCorrupt(f"{listed.key} holds {listed.sha256[:12]}, wanted what its name says.", hint=_HINT, key=listed.key)
        else:
            for _ in content:
                pass
        done += listed.size_bytes
        reporter.progress(done, max(1, archive.listing.size_bytes), "checking")
    objects = {one.key: one for one in archive.listing.objects}
    found = _belongings(archive.listing.run_id, documents)
    _check_whole(objects, found, documents)
    _check_version(found, documents)
    return _Checked(objects=objects, documents=documents, found=found, run_id=archive.listing.run_id)


def _take_document(key: str, data: bytes, documents: dict[str, bytes]) -> None:
    document, _ = parse_document(key, data)
    if document.newer:
        raise StoreError(f"{key} has format_version {document.newer}, which this foundry does not know.", hint="`pip install -U foundry-ray`.")
    if not _is_of_a_study(key):
        documents[key] = data


def _is_of_a_study(key: str) -> bool:
    """What a study is of, and its journal: they name nothing that its result does not name."""
    return key.startswith("studies/")


def _belongings(run_id: str, documents: dict[str, bytes]) -> Belongings:
    def read(key: str) -> tuple[Document, Json]:
        data = documents.get(plain(key))
        if data is None:
            raise ArtifactCorrupt(f"the archive lacks {key}, which its run names.", hint=_HINT, key=key)
        return parse_document(plain(key), data)

    return collect(run_id, read, lambda folder: sorted(key for key in documents if key.startswith(folder)))


def _check_whole(objects: dict[str, Listed], found: Belongings, documents: dict[str, bytes]) -> None:
    """Everything that the run names is there, before what names it, and nothing else is."""
    wanted = set(found.documents)
    position = {key: number for number, key in enumerate(objects)}
    checkpoints = (parse_document(key, data)[0] for key, data in documents.items() if key.startswith("checkpoints/"))
    for document in (*found.documents.values(), *checkpoints):
        for need in document.needs:
            if not need.key.startswith(("blobs/", "checkpoints/")) or (need.key.startswith("checkpoints/") and not need.sha256):
                continue
            listed = objects.get(need.key)
            if listed is None or (listed.sha256, listed.size_bytes) != (need.sha256, need.size_bytes) or position[need.key] > position[document.key]:
                raise ArtifactCorrupt(f"the archive lacks {need.key} as {document.key} names it.", hint=_HINT, key=need.key)
            wanted.add(need.key)
    _check_journals(objects)
    for key in objects:
        folder = key.split("/")[1]
        if key not in wanted and not (key.startswith(("checkpoints/", "studies/")) and folder in found.stage_keys):
            raise ArtifactCorrupt(f"the archive holds {key}, which its run does not name.", hint=_HINT, key=key)


def _check_version(found: Belongings, documents: dict[str, bytes]) -> None:
    """The version that the run registered, and what was said of it, can be registered here."""
    if found.registered is None:
        return
    try:
        registry.parse(f"{found.registered.name}:{found.registered.version}")
    except ConfigError as error:
        raise ArtifactCorrupt(f"the archive registers what has no name: {error.message}", hint=_HINT) from error
    record, _ = _registered(found, {key: parse_document(key, data)[1] for key, data in documents.items() if key.startswith("registry/")})
    if plain(record.model.artifact.key) not in found.documents:
        raise ArtifactCorrupt(f"the archive lacks {record.model.artifact.key}, which its version names.", hint=_HINT)


def _registered(found: Belongings, values: dict[str, Json]) -> tuple[registry.Version, list[registry.Verdict]]:
    """The version that the run registered, with its verdicts, oldest first. Raises ArtifactCorrupt."""
    keys = sorted(key for key in found.documents if key.startswith("registry/"))
    record = next(from_json(registry.Version, values[key], what=key) for key in keys if "/versions/" in key)
    return record, [from_json(registry.Verdict, values[key], what=key) for key in keys if "/reports/" in key]


def _check_journals(objects: dict[str, Listed]) -> None:
    for missing, last in missing_segments(objects):
        raise ArtifactCorrupt(f"the archive lacks {missing}, and has {last}.", hint=_HINT, key=missing)


def _check_conflicts(store: ArtifactStore, checked: _Checked) -> None:
    """Raises Conflict for an object that the store holds with other content. Artifacts and versions are found by what they hold, and have none."""
    for key, listed in checked.objects.items():
        if key.startswith(("artifacts/", "blobs/", "registry/")):
            continue
        info = store.stat(key)
        if info is not None and not _is_there(store, listed, checked.documents.get(key)):
            raise _conflict(store, key)


def _is_there(store: ArtifactStore, listed: Listed, document: bytes | None) -> bool:
    if document is not None and not listed.key.startswith("checkpoints/"):
        return is_same(listed.key, store.get(listed.key), document)
    return sha256_of(store, listed.key, size=listed.size_bytes + 1) == listed.sha256


def _conflict(store: ArtifactStore, key: str) -> Conflict:
    message = f"{store.uri} holds {key} with other content than the archive."
    return Conflict(message, hint="nothing is overwritten: import into another store, or delete that run, and collect it, first.", key=key)


@dataclass(frozen=True)
class _Shelf:
    """Files that wait in a folder, by their sha256, until the last artifact that needs them is published."""

    folder: Path
    uses: Counter[str]

    def put(self, sha256: str, content: Iterator[bytes]) -> Path:
        """Take a file in. Raises ArtifactCorrupt where the bytes are others."""
        with self.path(sha256).open("wb") as stream:
            for piece in content:
                stream.write(piece)
        return self.path(sha256)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def release(self, hashes: set[str]) -> None:
        """One artifact less needs these."""
        self.uses.subtract(hashes)
        for sha256 in hashes:
            if self.uses[sha256] <= 0:
                self.path(sha256).unlink(missing_ok=True)


@dataclass(kw_only=True)
class _Writer:
    """Writes a checked archive. `names` tells under which key an artifact was published where that is not its plain one."""

    store: ArtifactStore
    checked: _Checked
    reporter: Reporter
    names: dict[str, str] = field(default_factory=dict)
    num_new: int = 0

    def write_objects(self, archive: ArchiveReader, folder: Path) -> None:
        """Publish the artifacts, and write checkpoints and journals, in the order of the archive."""
        if archive.listing.objects != tuple(self.checked.objects.values()):
            raise ArtifactCorrupt("the archive was changed while it was read.", hint="import it again.")
        shelf = _Shelf(folder, self._uses())
        done, total = 0, max(1, archive.listing.size_bytes)
        for listed, content in archive.objects():
            if listed.key.startswith("blobs/"):
                shelf.put(listed.sha256, content)
            elif listed.key.startswith("artifacts/"):
                self._publish(listed.key, shelf)
            elif listed.key.startswith(("checkpoints/", "studies/")):
                self._put(listed, shelf.put(listed.sha256, content))
            done += listed.size_bytes
            self.reporter.progress(done, total, "writing")

    def write_documents(self) -> str:
        """Write the stage results, the version, and the record. Returns `name:version` of the run's model here, or nothing."""
        found = self.checked.found
        stages = sorted(key for key in found.documents if key.startswith("stages/"))
        for key in stages:
            if not key.startswith("stages/registry/"):
                self._write(key, None)
        version = self._adopt(found.registered) if found.registered else None
        for key in (*(key for key in stages if key.startswith("stages/registry/")), record_key(self.checked.run_id)):
            self._write(key, version)
        return f"{found.registered.name}:{version}" if found.registered else ""

    def _uses(self) -> Counter[str]:
        documents = (document for key, document in self.checked.found.documents.items() if key.startswith("artifacts/"))
        return Counter(sha256 for document in documents for sha256 in {need.sha256 for need in document.needs if need.key.startswith("blobs/")})

    def _publish(self, key: str, shelf: _Shelf) -> None:
        manifest = parse_manifest(key, self.checked.documents[key])
        files = {name: shelf.path(file.sha256) for name, file in manifest.files.items()}
        is_new = self.store.stat(key) is None
        ref = publish(self.store, kind=manifest.kind, files=files, meta=manifest.meta, created_at=manifest.created_at)
        self.names[key] = ref.key
        self.num_new += is_new
        shelf.release({file.sha256 for file in manifest.files.values()})

    def _put(self, listed: Listed, path: Path) -> None:
        try:
            self.store.put(listed.key, path, if_absent=True)
            self.num_new += 1
        except Conflict as error:
            if sha256_of(self.store, listed.key, size=listed.size_bytes + 1) != listed.sha256:
                raise _conflict(self.store, listed.key) from error
        finally:
            path.unlink()

    def _write(self, key: str, version: int | None) -> None:
        """Write a document that names artifacts by their keys here, and the version by its number here."""
        value = self._here(key)
        if version is not None:
            _set_version(value, version)
        data = canonical_bytes(value)
        try:
            self.store.put(key, data, if_absent=True)
            self.num_new += 1
        except Conflict as error:
            if not is_same(key, self.store.get(key), data):
                raise _conflict(self.store, key) from error

    def _adopt(self, entry: RegistryEntry) -> int:
        values = {key: self._here(key) for key in self.checked.found.documents if key.startswith("registry/")}
        record, verdicts = _registered(self.checked.found, values)
        return registry.adopt(self.store, name=entry.name, record=record, verdicts=verdicts)

    def _here(self, key: str) -> Json:
        """A document that names artifacts by their keys here."""
        return renamed(parse_document(key, self.checked.documents[key])[1], lambda name: self.names.get(plain(name), name))


def _set_version(value: Json, version: int) -> None:
    """Give the registered version the number that it has here, in the result of the registry stage or in the record of a run."""
    assert isinstance(value, dict)
    record = value.get("record")
    stages = record["stages"] if isinstance(record, dict) else [{"name": "registry", "outputs": value.get("outputs")}]
    assert isinstance(stages, list)
    for stage in stages:
        if isinstance(stage, dict) and stage["name"] == "registry" and isinstance(outputs := stage["outputs"], dict):
            outputs["version"] = version
