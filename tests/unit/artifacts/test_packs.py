"""Small files share blobs, and no manifest makes a reader write where it should not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from foundry_ray.artifacts import manifest as manifest_module
from foundry_ray.artifacts import packs
from foundry_ray.artifacts.manifests import BlobInfo, Manifest, fetch, load_manifest, publish, put_json, read_file
from foundry_ray.errors import ArtifactCorrupt, StoreError
from foundry_ray.testing.stores import FailingStore, MemoryStore
from foundry_ray.types import ArtifactRef, to_json

_MANY = {f"images/{number:03d}.bin": bytes([number]) * (number + 1) for number in range(100)}


def _publish(store: object, files: Mapping[str, bytes | Path] = _MANY) -> ArtifactRef:
    return publish(store, kind="dataset", files=files, created_at="")


def _blobs(store: MemoryStore) -> list[str]:
    return [key for key in store.objects if key.startswith("blobs/")]


def test_many_small_files_lie_in_one_object_and_come_back(store: MemoryStore, tmp_path: Path) -> None:
    ref = _publish(store)
    assert len(_blobs(store)) == 1
    assert {name: path.read_bytes() for name, path in fetch(store, ref.key, tmp_path).items()} == _MANY
    assert not list(tmp_path.glob("~*"))


def test_few_small_files_stay_blobs_that_others_may_share(store: MemoryStore) -> None:
    _publish(store, dict(list(_MANY.items())[: packs.MAX_LOOSE]))
    assert len(_blobs(store)) == packs.MAX_LOOSE


def test_large_files_are_not_packed(store: MemoryStore) -> None:
    ref = _publish(store, {**_MANY, "large": bytes(packs.SMALL_BYTES + 1)})
    assert load_manifest(store, ref.key).files["large"].pack is None
    assert read_file(store, ref.key, "large") == bytes(packs.SMALL_BYTES + 1)


def test_a_full_pack_is_followed_by_another(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 1000)
    ref = _publish(store)
    sizes = [len(store.objects[key]) for key in _blobs(store)]
    assert len(sizes) == 6
    assert max(sizes) <= 1000
    assert {name: path.read_bytes() for name, path in fetch(store, ref.key, tmp_path).items()} == _MANY


def test_equal_files_are_stored_once(store: MemoryStore, tmp_path: Path) -> None:
    files = {**_MANY, **{f"again/{name}": data for name, data in _MANY.items()}}
    ref = _publish(store, files)
    assert sum(len(store.objects[key]) for key in _blobs(store)) == sum(map(len, _MANY.values()))
    assert {name: path.read_bytes() for name, path in fetch(store, ref.key, tmp_path).items()} == files


def test_packing_changes_no_key(store: MemoryStore) -> None:
    blobs = {name: BlobInfo(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)) for name, data in _MANY.items()}
    assert _publish(store).sha256 == Manifest(kind="dataset", files=blobs).sha256


def test_an_artifact_from_before_packs_keeps_its_layout(store: MemoryStore) -> None:
    blobs = {name: BlobInfo(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)) for name, data in _MANY.items()}
    old = Manifest(kind="dataset", files=blobs, created_at="2020", format_version=1)
    put_json(store, f"artifacts/dataset/{old.sha256}.json", to_json(old))
    ref = _publish(store)
    assert (ref.created_at, len(_blobs(store))) == ("2020", len(_MANY))
    assert read_file(store, ref.key, "images/007.bin") == _MANY["images/007.bin"]


def test_one_file_of_a_pack_is_one_read_of_its_range(store: MemoryStore) -> None:
    ref, counting = _publish(store), _Ranges(store)
    assert read_file(counting, ref.key, "images/050.bin") == _MANY["images/050.bin"]
    [(key, _, size)] = [read for read in counting.reads if read[0].startswith("blobs/")]
    assert (key, size) == (_blobs(store)[0], 51)


class _Ranges(MemoryStore):
    """Notes what is read."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__()
        self.objects, self._written = inner.objects, inner._written
        self.reads: list[tuple[str, int, int | None]] = []

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        self.reads.append((key, start, size))
        return super().get(key, start=start, size=size)


def test_a_pack_is_downloaded_once_and_single_files_by_range(store: MemoryStore, tmp_path: Path) -> None:
    ref, counting = _publish(store), FailingStore(store)
    fetch(counting, ref.key, tmp_path)
    assert [verb for verb, _ in counting.calls].count("download") == 1
    (tmp_path / "images/001.bin").unlink()
    counting.calls.clear()
    fetch(counting, ref.key, tmp_path)
    assert [verb for verb, key in counting.calls if key.startswith("blobs/")] == ["stat", "get"]


def test_a_rotten_file_of_a_pack_never_appears(store: MemoryStore, tmp_path: Path) -> None:
    ref = _publish(store)
    [key] = _blobs(store)
    store.objects[key] = store.objects[key][:-1] + b"x"
    with pytest.raises(ArtifactCorrupt, match=r"images/099\.bin has sha256"):
        fetch(store, ref.key, tmp_path)
    assert not (tmp_path / "images/099.bin").exists()
    assert read_file(store, ref.key, "images/001.bin") == _MANY["images/001.bin"]


def test_a_file_that_changes_while_it_is_published_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    paths = {name: tmp_path / name.replace("/", "-") for name in _MANY}
    for name, path in paths.items():
        path.write_bytes(_MANY[name])
    layout = packs.arrange(paths)
    paths["images/005.bin"].write_bytes(b"edited")
    [piece] = packs.pieces(layout, paths)
    with pytest.raises(StoreError, match=r"images-005\.bin changed while it was published"):
        packs.write_pack(piece, tmp_path / "pack")


_SHA = "0" * 64


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"../x": BlobInfo(sha256=_SHA, size_bytes=1)}, "not portable"),
        ({"/etc/x": BlobInfo(sha256=_SHA, size_bytes=1)}, "not portable"),
        ({"a": BlobInfo(sha256=_SHA, size_bytes=1), "a/b": BlobInfo(sha256=_SHA, size_bytes=1)}, "'a' as a file and as a folder"),
        ({"a": BlobInfo(sha256=_SHA, size_bytes=1), "a/b/c": BlobInfo(sha256=_SHA, size_bytes=1)}, "'a' as a file and as a folder"),
        ({"x": BlobInfo(sha256="../../runs", size_bytes=1)}, "a hash that is none"),
        ({"x": BlobInfo(sha256=_SHA, size_bytes=1, pack="..")}, "a hash that is none"),
        ({"x": BlobInfo(sha256=_SHA, size_bytes=-1)}, "negative size"),
        ({"x": BlobInfo(sha256=_SHA, size_bytes=1, pack=_SHA, offset=-1)}, "negative size, offset"),
        ({"x": BlobInfo(sha256=_SHA, size_bytes=1, generation=-1)}, "generation"),
        ({"x": BlobInfo(sha256=_SHA, size_bytes=1, pack=_SHA, offset=64 << 20)}, "beyond the end of a pack"),
    ],
)
def test_a_hostile_manifest_is_refused_and_nothing_is_written(
    store: MemoryStore, tmp_path: Path, files: Mapping[str, BlobInfo], problem: str
) -> None:
    manifest = Manifest(kind="model", files=files)
    key = f"artifacts/model/{manifest.sha256}.json"
    put_json(store, key, to_json(manifest))
    with pytest.raises(ArtifactCorrupt, match=problem):
        fetch(store, key, tmp_path / "inside")
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_ends_before_its_files_is_corrupt(store: MemoryStore, tmp_path: Path) -> None:
    ref = _publish(store)
    [key] = _blobs(store)
    store.objects[key] = store.objects[key][:50]
    for read in (lambda: fetch(store, ref.key, tmp_path), lambda: read_file(store, ref.key, "images/099.bin")):
        with pytest.raises(ArtifactCorrupt, match="has sha256"):
            read()


def test_a_pack_larger_than_packs_are_is_not_downloaded(store: MemoryStore, tmp_path: Path) -> None:
    ref, counting = _publish(store), FailingStore(store)
    [key] = _blobs(store)
    store.objects[key] = bytes(packs.PACK_BYTES + 1)
    with pytest.raises(ArtifactCorrupt, match="a pack has at most"):
        fetch(counting, ref.key, tmp_path)
    assert "download" not in [verb for verb, _ in counting.calls]


def test_a_huge_manifest_is_not_read(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, counting = _publish(store), FailingStore(store)
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(ArtifactCorrupt, match="a manifest has at most 100"):
        load_manifest(counting, ref.key)
    assert [verb for verb, _ in counting.calls] == ["stat"]


def test_too_many_files_are_refused_on_both_sides(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = _publish(store)
    monkeypatch.setattr(manifest_module, "MAX_FILES", 10)
    with pytest.raises(ArtifactCorrupt, match="names 100 files, an artifact has at most 10"):
        load_manifest(store, ref.key)
    with pytest.raises(StoreError, match="it has 100 files"):
        _publish(store)


def test_a_name_that_is_a_file_and_a_folder_is_not_published(store: MemoryStore) -> None:
    with pytest.raises(StoreError, match="names 'a' as a file and as a folder"):
        _publish(store, {"a": b"1", "a/b": b"2"})
    assert store.objects == {}
