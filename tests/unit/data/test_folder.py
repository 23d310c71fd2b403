"""A folder of images as a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foundry_ray.data.folder import FolderSource
from foundry_ray.errors import BadRecord, DataError

from .conftest import save_image


def test_classes_are_folders_and_rows_are_files_in_order(photos: Path) -> None:
    raw = FolderSource(photos).load()
    assert raw.schema.classes == ("cat", "dog")
    assert (raw.schema.shape, raw.inputs_N.dtype) == ((1, 4, 5), np.uint8)
    assert raw.labels_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert raw.inputs_N[:, 0, 0, 0].tolist() == [0, 1, 2, 40, 41, 42]


def test_colour_comes_channels_first(tmp_path: Path) -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    save_image(tmp_path / "a" / "1.PNG", pixels)
    raw = FolderSource(tmp_path).load()
    assert raw.inputs_N[0].tolist() == pixels.transpose(2, 0, 1).tolist()


def test_jpeg_is_read(tmp_path: Path) -> None:
    save_image(tmp_path / "a" / "1.jpg", np.full((8, 8), 100, dtype=np.uint8))
    assert abs(int(FolderSource(tmp_path).load().inputs_N.mean()) - 100) <= 1


def test_the_hash_changes_with_a_byte_and_with_a_name(photos: Path) -> None:
    before = FolderSource(photos).sha256()
    assert FolderSource(photos).sha256() == before
    (photos / "cat" / "0.png").rename(photos / "cat" / "9.png")
    renamed = FolderSource(photos).sha256()
    save_image(photos / "dog" / "1.png", np.zeros((4, 5), dtype=np.uint8))
    assert len({before, renamed, FolderSource(photos).sha256()}) == 3


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("kept_ratio", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_image_is_refused_with_file_and_row(photos: Path, suffix: str, kept_ratio: float) -> None:
    path = photos / "dog" / f"1.{suffix}"
    (photos / "dog" / "1.png").unlink()
    save_image(path, np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: int(kept_ratio * path.stat().st_size)])
    with pytest.raises(BadRecord, match=r"dog/1\.(png|jpg) \(row 4\) is no readable image.*data\.clean\.corrupt: drop") as caught:
        FolderSource(photos).load()
    assert (caught.value.facts["source"], caught.value.facts["row"]) == (str(path), 4)


def test_a_corrupt_image_is_dropped_with_a_note_where_that_is_asked_for(photos: Path) -> None:
    (photos / "dog" / "1.png").write_bytes(b"no image")
    raw = FolderSource(photos, drop_corrupt=True).load()
    assert raw.labels_N.tolist() == [0, 0, 0, 1, 1]
    assert len(raw.notes) == 1
    assert "dropped:" in raw.notes[0]
    assert "dog/1.png" in raw.notes[0]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 6), dtype=np.uint8), r"has shape \(1, 4, 6\).*wanted \(1, 4, 5\) as .*cat/0\.png has"),
        (np.zeros((4, 5, 3), dtype=np.uint8), r"has shape \(3, 4, 5\)"),
        (np.zeros((4, 5, 4), dtype=np.uint8), "has mode RGBA, wanted L or RGB"),
    ],
)
def test_another_size_or_mode_is_refused_even_where_corrupt_images_are_dropped(photos: Path, pixels: np.ndarray, message: str) -> None:
    save_image(photos / "dog" / "1.png", pixels)
    with pytest.raises(BadRecord, match=message):
        FolderSource(photos, drop_corrupt=True).load()


def test_other_files_are_ignored_with_a_note(photos: Path) -> None:
    (photos / "cat" / "readme.txt").write_text("cats")
    raw = FolderSource(photos).load()
    assert len(raw.labels_N) == 6
    assert raw.notes == (f"ignored 1 files that are no images, {photos / 'cat' / 'readme.txt'} among them",)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no readable images"):
        FolderSource(tmp_path).load()


def test_an_empty_class_is_another_data_set(photos: Path) -> None:
    before = FolderSource(photos).sha256()
    (photos / "emu").mkdir()
    assert FolderSource(photos).load().schema.classes == ("cat", "dog", "emu")
    assert FolderSource(photos).sha256() != before
