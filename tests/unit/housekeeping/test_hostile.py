"""An archive from a stranger does no harm: a clear error, nothing outside the scratch folder, nothing kept, and the store as it was."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_ray.errors import ArtifactCorrupt, ConfigError, FoundryError, OutOfRange, StoreError
from foundry_ray.housekeeping import importing
from foundry_ray.housekeeping.exporting import export_run
from foundry_ray.housekeeping.importing import import_run
from foundry_ray.testing.clock import FakeClock
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.testing.stored_runs import RUN_ID, stage_key_of, store_run
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.types import Json, canonical_bytes

RECORD = f"runs/{RUN_ID}/record.json"
TEACHER = f"stages/teacher/{stage_key_of('teacher')}.json"
Objects = list[tuple[str, bytes]]
Refuse = Callable[..., None]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an archive that imports."""
    source, path = MemoryStore(), tmp_path_factory.mktemp("valid") / "run.tar"
    store_run(source, clock=FakeClock(), num_files=2)
    export_run(source, RUN_ID, path, reporter=RecordingReporter())
    return path.read_bytes()


@pytest.fixture
def objects(valid: bytes) -> Objects:
    """What the archive holds, in its order."""
    with tarfile.open(fileobj=io.BytesIO(valid)) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive.getmembers()[1:]]


@pytest.fixture
def refuse(tmp_path: Path) -> Refuse:
    """Imports bytes, and asserts that this ends in an error and leaves no trace."""

    def check(data: bytes, kind: type[FoundryError], message: str, **options: object) -> None:
        store = MemoryStore()
        with pytest.raises(kind, match=message):
            _import(store, tmp_path, data, **options)
        assert store.objects == {}

    return check


def _import(store: MemoryStore, folder: Path, data: bytes, *, max_bytes: int = 1 << 30) -> None:
    """Import, and assert that nothing is left on the disk but the archive itself."""
    path = folder / "hostile.tar"
    path.write_bytes(data)
    try:
        import_run(store, path, max_bytes=max_bytes, scratch=folder / "scratch", reporter=RecordingReporter())
    finally:
        assert sorted(str(one.relative_to(folder)) for one in folder.rglob("*")) in (["hostile.tar"], ["hostile.tar", "scratch"])


def _member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, size: int | None = None, target: str = "") -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname = len(data) if size is None else size, kind, target
    return header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def _listing(objects: Sequence[tuple[str, bytes]], **changes: Json) -> bytes:
    listed: Json = [{"key": key, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} for key, data in objects]
    return canonical_bytes({"format_version": 1, "run_id": RUN_ID, "objects": listed, **changes})


def _archive(objects: Sequence[tuple[str, bytes]], *, listing: bytes | None = None, members: bytes | None = None) -> bytes:
    content = b"".join(_member(key, data) for key, data in objects) if members is None else members
    return _member("foundry-export.json", _listing(objects) if listing is None else listing) + content + bytes(1024)


def _changed(objects: Objects, key: str, change: Callable[[dict[str, Json]], None]) -> Objects:
    def edited(data: bytes) -> bytes:
        value = json.loads(data)
        change(value)
        return canonical_bytes(value)

    return [(name, edited(data) if name == key else data) for name, data in objects]


def test_the_archive_of_these_tests_imports_unchanged(objects: Objects, valid: bytes, tmp_path: Path) -> None:
    store = MemoryStore()
    assert _archive(objects) == valid
    _import(store, tmp_path, valid)
    assert RECORD in store.objects


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "/etc/passwd", "runs/../x", "runs//record.json", "a\\b", "", "x" * 2000, "runs/\ud800/record.json"]
)
def test_a_name_that_leaves_the_store_is_refused(refuse: Refuse, objects: Objects, key: str) -> None:
    listing = _listing([*objects, ("placeholder", b"x")]).replace(b'"placeholder"', json.dumps(key).encode())
    refuse(_archive(objects, listing=listing), ArtifactCorrupt, "lists .* with a key, size or sha256 that none can have")


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "/tmp/x", "blobs/../../x"])
def test_a_member_of_another_name_than_listed_is_refused(refuse: Refuse, objects: Objects, name: str) -> None:
    members = _member(name, objects[0][1]) + b"".join(_member(key, data) for key, data in objects[1:])
    refuse(_archive(objects, members=members), ArtifactCorrupt, f"holds '{name}' .* where its list says {objects[0][0]}")


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.DIRTYPE, "a folder"),
        (tarfile.XHDTYPE, "a member with an extended header"),
        (tarfile.GNUTYPE_LONGNAME, "a member with an extended header"),
        (tarfile.GNUTYPE_SPARSE, "a member with an extended header"),
    ],
)
@pytest.mark.parametrize("place", ["first", "between", "instead"])
def test_what_is_no_regular_file_is_refused(refuse: Refuse, objects: Objects, kind: bytes, what: str, place: str) -> None:
    odd = _member(objects[0][0], kind=kind, target="/etc/passwd")
    files = [_member(key, data) for key, data in objects]
    inside = _archive(objects, members=odd + b"".join(files[1:] if place == "instead" else files))
    refuse(odd + _archive(objects) if place == "first" else inside, ArtifactCorrupt, f"holds {what}")


def test_a_member_that_comes_twice_is_refused(refuse: Refuse, objects: Objects) -> None:
    members = b"".join(_member(key, data) for key, data in [objects[0], *objects])
    refuse(_archive(objects, members=members), ArtifactCorrupt, "where its list says")


def test_an_object_that_is_listed_twice_is_refused(refuse: Refuse, objects: Objects) -> None:
    refuse(_archive([objects[0], *objects]), ArtifactCorrupt, f"lists '{objects[0][0]}' twice")


def test_a_member_after_the_last_one_is_refused(refuse: Refuse, objects: Objects) -> None:
    more = b"".join(_member(key, data) for key, data in [*objects, ("blobs/more", b"more")])
    refuse(_archive(objects, members=more), ArtifactCorrupt, "goes on after the last object")


def test_endless_zeros_after_the_last_member_are_refused(refuse: Refuse, valid: bytes) -> None:
    refuse(valid + bytes(1 << 20), ArtifactCorrupt, "goes on after the last object")


@pytest.mark.parametrize("size", [0, 511, 1 << 40])
def test_a_member_of_another_size_than_listed_is_refused(refuse: Refuse, objects: Objects, size: int) -> None:
    members = _member(objects[0][0], objects[0][1], size=size) + b"".join(_member(key, data) for key, data in objects[1:])
    refuse(_archive(objects, members=members), ArtifactCorrupt, f"\\({size} bytes\\) where its list says")


def test_bytes_with_another_hash_are_refused(refuse: Refuse, objects: Objects) -> None:
    forged = [(key, data[::-1]) if key.startswith("blobs/") else (key, data) for key, data in objects]
    refuse(_archive(forged, listing=_listing(objects)), ArtifactCorrupt, "has sha256 .*, wanted")


def test_a_blob_whose_name_is_not_its_hash_is_refused(refuse: Refuse, objects: Objects) -> None:
    refuse(_archive([("blobs/sha256/aa/" + "a" * 64, b"forged"), *objects]), ArtifactCorrupt, "wanted what its name says")


def test_more_bytes_than_the_limit_are_refused_before_they_are_read(refuse: Refuse, valid: bytes) -> None:
    refuse(valid, OutOfRange, "the limit is 1000", max_bytes=1000)


def test_a_bomb_is_refused_by_what_it_says(refuse: Refuse, objects: Objects) -> None:
    size = 50 << 30
    listing = json.loads(_listing(objects))
    listing["objects"][0]["size_bytes"] = size
    bomb = gzip.compress(_archive(objects, listing=canonical_bytes(listing)))
    refuse(bomb, ArtifactCorrupt, "more than 200 times as many", max_bytes=size * 2)


def test_a_bomb_that_says_it_is_small_is_not_read_to_its_end(refuse: Refuse, objects: Objects) -> None:
    bomb = gzip.compress(_archive(objects) + bytes(64 << 20))
    refuse(bomb, ArtifactCorrupt, "goes on after the last object")


def test_a_list_that_is_a_bomb_is_refused(refuse: Refuse) -> None:
    refuse(gzip.compress(_member("foundry-export.json", size=1 << 40) + bytes(1 << 20)), ArtifactCorrupt, "of at most")


def test_a_header_that_asks_for_much_memory_is_refused(refuse: Refuse, objects: Objects) -> None:
    """What extended headers say is read whole by most readers."""
    header = _member("x", kind=tarfile.XHDTYPE, size=1 << 40)
    refuse(_archive(objects, members=header), ArtifactCorrupt, "extended header")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("is_zipped", [False, True])
def test_a_file_that_ends_early_is_refused(refuse: Refuse, valid: bytes, share: float, is_zipped: bool) -> None:
    data = gzip.compress(valid) if is_zipped else valid
    refuse(data[: int(len(data) * share)], ArtifactCorrupt, "ends early|is no tar file")


def test_a_gzip_with_a_wrong_checksum_is_refused(refuse: Refuse, valid: bytes) -> None:
    data = bytearray(gzip.compress(valid))
    data[-8] ^= 1
    refuse(bytes(data), ArtifactCorrupt, "cannot be read: CRC check failed")


def test_zstandard_is_named(refuse: Refuse) -> None:
    refuse(b"\x28\xb5\x2f\xfd" + bytes(100), ConfigError, "is compressed with zstandard")


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to("/nowhere"), lambda path: None])
def test_what_is_no_file_is_the_users_mistake(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "run.tar"
    make(path)
    with pytest.raises(ConfigError, match="is no file"):
        import_run(MemoryStore(), path, max_bytes=1, scratch=tmp_path, reporter=RecordingReporter())


def test_an_archive_of_a_later_foundry_is_told(refuse: Refuse, objects: Objects) -> None:
    refuse(_archive(objects, listing=_listing(objects, format_version=2)), StoreError, "has format_version 2, this foundry reads up to 1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is not JSON"),
        (b"[]", "is not a Listing|holds list"),
        (b"[" * 200_000, "nested deeper than 100 levels"),
        (b'{"run_id": "x", "objects": {}}', "the archive lacks runs/x/record.json"),
        (b'{"run_id": 3, "objects": []}', "is not a Listing"),
        (b'{"run_id": "x", "objects": [{"key": "x", "sha256": "x", "size_bytes": -1}]}', "with a key, size or sha256"),
        (b'{"run_id": "../../x", "objects": []}', "the archive lacks runs/../../x/record.json"),
        (b'{"run_id": NaN, "objects": []}', "is no finite number"),
    ],
)
def test_a_list_of_another_shape_is_refused(refuse: Refuse, data: bytes, message: str) -> None:
    refuse(_archive([], listing=data), ArtifactCorrupt, message)


@pytest.mark.parametrize("key", [RECORD, TEACHER, "registry/mnist/versions/00000001", "artifacts"])
@pytest.mark.parametrize(
    ("data", "message"),
    [(b"{", "is not JSON"), (b"[]", "holds list, wanted an object"), (b"[" * 200_000, "nested deeper than 100 levels"), (b"{}", "is not a")],
)
def test_a_document_of_another_shape_is_refused(refuse: Refuse, objects: Objects, key: str, data: bytes, message: str) -> None:
    refuse(_archive([(name, data if name.startswith(key) else content) for name, content in objects]), ArtifactCorrupt, message)


@pytest.mark.parametrize("limit", ["MAX_DOCUMENT_BYTES", "_MAX_KEPT_BYTES"])
def test_documents_that_are_too_large_are_refused(refuse: Refuse, valid: bytes, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(importing, limit, 100)
    refuse(valid, ArtifactCorrupt, "the documents of the archive are larger than those of a run")


def test_a_document_of_a_later_foundry_is_told(refuse: Refuse, objects: Objects) -> None:
    later = _changed(objects, TEACHER, lambda value: value.update(format_version=99))
    refuse(_archive(later), StoreError, f"{TEACHER} has format_version 99")


def test_a_record_of_another_run_is_refused(refuse: Refuse, objects: Objects) -> None:
    forged = _changed(objects, RECORD, lambda value: value["record"].update(run_id="../../x"))
    refuse(_archive(forged), ArtifactCorrupt, "is the record of '../../x'")


def test_what_the_run_names_and_the_archive_lacks_is_refused(refuse: Refuse, objects: Objects) -> None:
    for lacking in (TEACHER, "registry/mnist/versions/00000001", next(key for key, _ in objects if key.startswith("blobs/"))):
        refuse(_archive([one for one in objects if one[0] != lacking]), ArtifactCorrupt, f"the archive lacks {lacking}")


@pytest.mark.parametrize(
    "key",
    [
        "stages/data/" + "0" * 32 + ".json",
        "registry/mnist/versions/00000007",
        f"studies/{'0' * 32}/journal/00000000",
        "runs/other/record.json",
    ],
)
def test_what_the_run_does_not_name_is_refused(refuse: Refuse, objects: Objects, key: str) -> None:
    template = {
        "stages": dict(objects)[TEACHER],
        "runs": dict(objects)[RECORD].replace(RUN_ID.encode(), b"other"),
        "registry": dict(objects)["registry/mnist/versions/00000001"],
        "studies": canonical_bytes({"events": []}),
    }
    order = ["blobs", "artifacts", "studies", "stages", "registry", "runs"]
    data = sorted([*objects, (key, template[key.partition("/")[0]])], key=lambda one: max(1, order.index(one[0].partition("/")[0])))
    refuse(_archive(data), ArtifactCorrupt, "which its run does not name")


@pytest.mark.parametrize("key", ["registry/mnist/aliases/champion/00000001", "gc/00000001/closed", "leases/x/00000001.done", "latency/a/b.json", "x"])
def test_what_is_no_part_of_a_run_is_refused(refuse: Refuse, objects: Objects, key: str) -> None:
    refuse(_archive([(key, b"{}"), *objects]), ArtifactCorrupt, f"{key} is no part of a run")


def test_objects_out_of_order_are_refused(refuse: Refuse, objects: Objects) -> None:
    refuse(_archive(objects[::-1]), ArtifactCorrupt, "comes after objects that name it")


def test_a_hole_in_a_journal_is_refused(refuse: Refuse, objects: Objects) -> None:
    refuse(_archive([one for one in objects if not one[0].endswith("/journal/00000000")]), ArtifactCorrupt, "lacks studies/.*/journal/00000000")


def test_a_manifest_that_names_a_path_outside_is_refused(refuse: Refuse, objects: Objects) -> None:
    manifest = next(key for key, _ in objects if key.startswith("artifacts/"))
    forged = _changed(objects, manifest, lambda value: value.update(files={"../../etc/x": {"sha256": "0" * 64, "size_bytes": 1}}))
    refuse(_archive(forged), ArtifactCorrupt, "not portable")


def test_a_result_that_names_a_path_outside_leads_nowhere(objects: Objects, tmp_path: Path) -> None:
    store = MemoryStore()
    forged = _changed(objects, TEACHER, lambda value: value["outputs"].update(notes=["../../etc/passwd", "artifacts/../../etc/passwd"]))
    _import(store, tmp_path, _archive(forged))
    assert not any("passwd" in key for key in store.objects)


def _mutations(valid: bytes) -> Iterator[st.SearchStrategy[bytes]]:
    place = st.integers(0, len(valid) - 1)
    piece = st.binary(max_size=1200)
    yield st.binary(max_size=4096)
    yield st.builds(lambda at: valid[:at], place)
    yield st.builds(lambda at, data: valid[:at] + data + valid[at + len(data) :], place, piece)
    yield st.builds(lambda at, data: valid[:at] + data + valid[at:], place, piece)
    yield st.builds(lambda at, size: valid[:at] + valid[at + size :], place, st.integers(1, 2000))
    yield st.builds(lambda at, to: valid[:at] + valid[to : to + 1024] + valid[at:], place, place)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An archive of a run that only began, so that mutations hit what matters."""
    source, path = MemoryStore(), tmp_path_factory.mktemp("small") / "run.tar"
    store_run(source, clock=FakeClock(), num_files=1)
    value = json.loads(source.objects[RECORD])
    value["record"]["stages"] = [stage for stage in value["record"]["stages"] if stage["name"] in ("data", "search")]
    source.objects[RECORD] = canonical_bytes(value)
    export_run(source, RUN_ID, path, reporter=RecordingReporter())
    return path.read_bytes()


def _whole_or_untouched(folder: Path, content: bytes) -> None:
    store = MemoryStore()
    try:
        _import(store, folder, content)
    except FoundryError:
        assert store.objects == {}
    else:
        assert RECORD in store.objects


@pytest.mark.parametrize("is_zipped", [False, True])
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_comes_the_store_is_whole_or_untouched(
    small: bytes, tmp_path_factory: pytest.TempPathFactory, is_zipped: bool, data: st.DataObject
) -> None:
    content = data.draw(st.one_of(*_mutations(gzip.compress(small, mtime=0) if is_zipped else small)))
    _whole_or_untouched(tmp_path_factory.mktemp("hostile"), content)


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
_NAMES = st.sampled_from(["outputs", "record", "model", "artifact", "key", "stages", "name", "version", "kind", "files", "events", "../x"])
_VALUES = st.recursive(_LEAVES | st.sampled_from(["../x", TEACHER, RECORD, "registry"]), lambda one: st.lists(one) | st.dictionaries(_NAMES, one))


@given(share=st.floats(0, 1, exclude_max=True), path=st.lists(st.integers(0, 20), max_size=5), value=_VALUES)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_a_document_says_the_store_is_whole_or_untouched(
    valid: bytes, tmp_path_factory: pytest.TempPathFactory, share: float, path: list[int], value: Json
) -> None:
    """The hashes are right here: the stranger made the archive himself."""
    with tarfile.open(fileobj=io.BytesIO(valid)) as archive:
        objects = [(member.name, archive.extractfile(member).read()) for member in archive.getmembers()[1:]]
    documents = [number for number, (key, _) in enumerate(objects) if not key.startswith("blobs/")]
    number = documents[int(share * len(documents))]
    forged = canonical_bytes(_replaced(json.loads(objects[number][1]), path, value))
    objects[number] = (objects[number][0], forged)
    _whole_or_untouched(tmp_path_factory.mktemp("hostile"), _archive(objects))


def _replaced(document: Json, path: list[int], value: Json) -> Json:
    """The document with another value at the place where a walk along the path ends."""
    if not path or not isinstance(document, (dict, list)) or not document:
        return value
    if isinstance(document, list):
        at = path[0] % len(document)
        return [_replaced(item, path[1:], value) if index == at else item for index, item in enumerate(document)]
    name = sorted(document)[path[0] % len(document)]
    return {**document, name: _replaced(document[name], path[1:], value)}
