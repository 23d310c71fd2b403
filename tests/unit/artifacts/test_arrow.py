"""The pyarrow view: files and folders as Arrow asks for them, and errors that come out."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pyarrow.fs as arrow_fs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_ray.artifacts._arrow_names import key_of, path_of
from foundry_ray.artifacts._arrow_streams import Upload
from foundry_ray.artifacts.arrow import arrow_filesystem
from foundry_ray.artifacts.keys import check_key
from foundry_ray.artifacts.local import LocalStore
from foundry_ray.errors import StoreError, StoreUnavailable
from foundry_ray.testing.stores import FailingStore, MemoryStore

DIRECTORY, FILE, NOT_FOUND = arrow_fs.FileType.Directory, arrow_fs.FileType.File, arrow_fs.FileType.NotFound
_MIB = 1 << 20


@pytest.fixture
def view(store: MemoryStore) -> Any:
    return arrow_filesystem(store)


def _write(view: Any, path: str, data: bytes) -> None:
    with view.open_output_stream(path) as stream:
        stream.write(data)


def _listed(view: Any, folder: str, *, recursive: bool = False) -> dict[str, Any]:
    return {info.path: info.type for info in view.get_file_info(arrow_fs.FileSelector(folder, recursive=recursive))}


def test_what_was_written_is_read_and_is_an_object_of_the_store(view: Any, store: MemoryStore) -> None:
    _write(view, "run/a.bin", b"0123456789")
    assert store.get("run/a.bin") == b"0123456789"
    with view.open_input_file("run/a.bin") as stream:
        stream.seek(3)
        assert (stream.read(4), stream.size()) == (b"3456", 10)


def test_a_file_that_is_absent_is_not_found(view: Any) -> None:
    with pytest.raises(FileNotFoundError, match="nothing/here"):
        view.open_input_stream("nothing/here")
    with pytest.raises(FileNotFoundError, match="nothing/here"):
        view.delete_file("nothing/here")


def test_a_folder_is_there_once_it_was_created_and_its_parents_with_it(view: Any) -> None:
    view.create_dir("deep/er/empty")
    assert [info.type for info in view.get_file_info(["deep", "deep/er", "deep/er/empty", "deep/e"])] == [DIRECTORY, DIRECTORY, DIRECTORY, NOT_FOUND]
    assert _listed(view, "deep", recursive=True) == {"deep/er": DIRECTORY, "deep/er/empty": DIRECTORY}


def test_a_folder_inside_nothing_needs_recursive(view: Any) -> None:
    with pytest.raises(FileNotFoundError, match="'a'"):
        view.create_dir("a/b", recursive=False)


def test_a_listing_shows_one_level_or_all(view: Any) -> None:
    for path in ("top/a", "top/in/b", "top/in/deep/c", "topping"):
        _write(view, path, b"1")
    assert _listed(view, "top") == {"top/a": FILE, "top/in": DIRECTORY}
    assert _listed(view, "top", recursive=True) == {
        "top/a": FILE,
        "top/in": DIRECTORY,
        "top/in/b": FILE,
        "top/in/deep": DIRECTORY,
        "top/in/deep/c": FILE,
    }
    assert _listed(view, "") == {"top": DIRECTORY, "topping": FILE}


def test_a_listing_of_nothing_is_an_error_unless_allowed(view: Any) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _listed(view, "nowhere")
    assert view.get_file_info(arrow_fs.FileSelector("nowhere", allow_not_found=True)) == []


def test_names_of_ray_come_back_as_they_were(view: Any, store: MemoryStore) -> None:
    path = "trial lr=0.1,layers=[1, 2]/14:02:33/ä~%.json"
    _write(view, path, b"1")
    view.create_dir("trial lr=0.1,layers=[1, 2]/empty:")
    assert set(_listed(view, "", recursive=True)) == {
        "trial lr=0.1,layers=[1, 2]",
        "trial lr=0.1,layers=[1, 2]/empty:",
        path.rpartition("/")[0],
        path,
    }
    assert all(check_key(key) for key in store.objects)
    with view.open_input_stream(path) as stream:
        assert stream.read() == b"1"


@given(st.lists(st.text(st.characters(exclude_characters="/"), min_size=1, max_size=20).filter(lambda name: name not in (".", "..")), min_size=1))
def test_every_name_has_a_key_of_its_own(names: list[str]) -> None:
    path = "/".join(names)
    assert path_of(key_of(path)) == path
    assert len(path) > 60 or check_key(key_of(path))


@pytest.mark.parametrize("key", ["lr=0.1", "=41", "=FF", "a=2cb", "=folder"])
def test_a_key_of_another_writer_is_shown_as_it_is(key: str) -> None:
    assert path_of(key) == key


def test_a_path_cannot_leave_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"segment '\.\.'"):
        _write(arrow_filesystem(LocalStore(tmp_path / "store")), "a/../../b", b"1")


def test_a_folder_goes_with_all_that_lies_in_it(view: Any, store: MemoryStore) -> None:
    view.create_dir("gone/empty")
    _write(view, "gone/a", b"1")
    _write(view, "gone-not/b", b"1")
    view.delete_dir("gone")
    assert list(store.objects) == ["gone-not/b"]
    with pytest.raises(FileNotFoundError, match="gone"):
        view.delete_dir("gone")


def test_an_emptied_folder_stays(view: Any) -> None:
    _write(view, "kept/a", b"1")
    view.delete_dir_contents("kept")
    assert (view.get_file_info("kept").type, _listed(view, "kept")) == (DIRECTORY, {})


def test_the_whole_store_is_never_deleted(view: Any, store: MemoryStore) -> None:
    _write(view, "a", b"1")
    for path in ("", "/"):
        with pytest.raises(StoreError, match="the whole store is never deleted"):
            view.delete_dir_contents(path, accept_root_dir=True)
    assert list(store.objects) == ["a"]


def test_files_and_folders_move_and_are_copied(view: Any, store: MemoryStore) -> None:
    _write(view, "from/in/a", b"1")
    view.copy_file("from/in/a", "b")
    view.move("b", "c")
    view.move("from", "to")
    assert store.objects == {"c": b"1", "to/in/a": b"1"}


def test_a_failing_store_is_heard_of_where_a_file_is_closed(store: MemoryStore) -> None:
    failing = FailingStore(store)
    failing.fail("put")
    stream = arrow_filesystem(failing).open_output_stream("a")
    stream.write(b"1")
    with pytest.raises(StoreUnavailable, match="did not answer put a"):
        stream.close()
    assert store.objects == {}


@pytest.mark.parametrize("use_threads", [True, False])
def test_a_failing_store_is_heard_of_where_files_are_copied(store: MemoryStore, tmp_path: Path, use_threads: bool) -> None:
    (tmp_path / "tail").write_bytes(b"1" * (2 * _MIB + 1))
    failing = FailingStore(store)
    failing.fail("put")
    with pytest.raises(StoreUnavailable, match="did not answer put"):
        arrow_fs.copy_files(str(tmp_path), "to", destination_filesystem=arrow_filesystem(failing), use_threads=use_threads)


def test_a_loss_that_arrow_ignores_is_raised_by_the_next_call(store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "whole").write_bytes(b"1" * _MIB)
    failing = FailingStore(store)
    failing.fail("put")
    view = arrow_filesystem(failing)
    arrow_fs.copy_files(str(tmp_path / "whole"), "to", destination_filesystem=view)
    assert "did not answer put to" in caplog.text
    with pytest.raises(StoreUnavailable, match="did not answer put to"):
        view.get_file_info("to")
    assert view.get_file_info("to").type == NOT_FOUND


@pytest.mark.parametrize("size", [0, 1, _MIB, _MIB + 1, 3 * _MIB])
def test_a_copied_file_is_put_once_and_comes_back_whole(store: MemoryStore, tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(bytes(size))
    counting = FailingStore(store)
    view = arrow_filesystem(counting)
    arrow_fs.copy_files(str(tmp_path / "a"), "to", destination_filesystem=view)
    assert counting.calls.count(("put", "to")) == 1
    arrow_fs.copy_files("to", str(tmp_path / "back"), source_filesystem=view)
    assert (tmp_path / "back").read_bytes() == bytes(size)


class _Lying(MemoryStore):
    """Confirms what it does not keep."""

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        super().put(key, b"", if_absent=if_absent)


def test_a_store_that_lies_is_noticed() -> None:
    with pytest.raises(StoreUnavailable, match=r"confirmed a of 3 bytes and then has 0 bytes"):
        _write(arrow_filesystem(_Lying()), "a", b"123")


def test_a_stream_that_is_dropped_open_leaves_nothing(view: Any, store: MemoryStore) -> None:
    stream = view.open_output_stream("half")
    stream.write(b"half of it")
    del stream
    gc.collect()
    assert store.objects == {}


def test_reading_in_sequence_asks_seldom_and_a_jump_little(store: MemoryStore) -> None:
    store.put("big", bytes(range(256)) * (16 << 10))
    counting = FailingStore(store)
    with arrow_filesystem(counting).open_input_file("big") as stream:
        data = b"".join(iter(lambda: stream.read(10_000), b""))
        assert data == store.get("big")
        assert len([verb for verb, _ in counting.calls if verb == "get"]) < 8
        stream.seek(1_000)
        assert stream.read(3) == data[1_000:1_003]


def test_an_object_that_shrinks_while_it_is_read_is_an_error(view: Any, store: MemoryStore) -> None:
    store.put("a", bytes(_MIB))
    with view.open_input_file("a") as stream:
        store.put("a", b"1")
        with pytest.raises(StoreUnavailable, match="ended after 1 of its 1048576 bytes"):
            stream.read()


def test_appending_is_refused_with_the_reason(view: Any) -> None:
    with pytest.raises(StoreError, match="objects of memory:// are written whole"):
        view.open_append_stream("a")


def test_views_of_one_store_are_equal(store: MemoryStore) -> None:
    assert arrow_filesystem(store) == arrow_filesystem(store)
    assert "memory://" in repr(arrow_filesystem(store).handler)


def test_an_upload_that_is_dropped_in_a_cycle_closes_its_file(store: MemoryStore) -> None:
    upload = Upload(store, "a", is_copy=False, on_lost=print)
    upload.write(b"1")
    path = Path(upload._file.name)
    upload.itself = upload  # type: ignore[attr-defined]
    del upload
    gc.collect()  # a file that is collected open is a ResourceWarning, and so an error
    assert not path.exists()
    assert store.objects == {}
