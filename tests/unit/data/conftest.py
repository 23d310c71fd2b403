"""Tiny data in the real formats."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foundry_ray.config import Settings
from foundry_ray.data import registry
from foundry_ray.protocols import RawData
from foundry_ray.types import ImageSchema

SCHEMA = ImageSchema(channels=1, height=2, width=3, dtype="uint8", classes=("ant", "bee"))
MakeRaw = Callable[..., RawData]
Place = Callable[[str, dict[str, bytes]], registry.Registered]


@pytest.fixture
def make_raw() -> MakeRaw:
    """Rows of distinct images, their classes in turn."""

    def make(num_rows: int = 40, *, test_from: int | None = None, num_classes: int = 2) -> RawData:
        images = np.zeros((num_rows, 1, 2, 3), dtype=np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(num_rows) % 256, np.arange(num_rows) // 256
        schema = ImageSchema(channels=1, height=2, width=3, dtype="uint8", classes=tuple("abcdefgh")[:num_classes])
        labels = np.arange(num_rows, dtype=np.int64) % num_classes
        return RawData(inputs_N=images, labels_N=labels, schema=schema, sha256="0" * 64, test_from=test_from)

    return make


@pytest.fixture
def place(settings: Settings) -> Place:
    """Write files where a fetched data set lies, and give its catalogue entry."""

    def write(format_: str, files: dict[str, bytes]) -> registry.Registered:
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        item = registry.Registered(
            name="tiny", installer="pip", package="tiny==1", folder="no_such_module_tiny/data", files=hashes, format=format_, schema=SCHEMA
        )
        home = registry.home_of(item, settings)
        home.mkdir(parents=True)
        for name, data in files.items():
            (home / name).write_bytes(data)
        return item

    return write


def idx(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as a gzipped idx file."""
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes())


def save_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image, its format by the suffix."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images: cat and dog, three PNG files each."""
    for number, name in enumerate(("cat", "dog")):
        for index in range(3):
            save_image(tmp_path / "photos" / name / f"{index}.png", np.full((4, 5), 40 * number + index, dtype=np.uint8))
    return tmp_path / "photos"
