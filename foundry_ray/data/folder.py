"""A folder of images, one folder per class: `photos/cat/1.png`, `photos/dog/2.jpg`.

Decides: what counts as an image, that all have one size and one mode (L or RGB), and what happens to an unreadable one.
Reading needs Pillow (the extra `images`).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.errors import BadRecord, DataError
from foundry_ray.protocols import RawData
from foundry_ray.types import ImageSchema

if TYPE_CHECKING:
    import numpy as np

_SUFFIXES = (".jpeg", ".jpg", ".png")
_MODES = {"L": 1, "RGB": 3}


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Images under `root/<class>/`. Classes are numbered in the order of their names, rows in the order of their paths."""

    root: Path
    drop_corrupt: bool = False

    def locate(self) -> Path:
        """The folder. Raises DataError if it is not there."""
        if not self.root.is_dir():
            raise DataError(f"{self.root} is no folder.", hint="`data.source` names a folder with one folder of images per class.")
        return self.root

    def sha256(self) -> str:
        """A hash over the names of the classes, and the relative paths and the bytes of all images."""
        digest = hashlib.sha256()
        for folder in self._folders():  # an empty one is a class too
            digest.update(f"{folder.name}/\n".encode())
        for path in self._paths():
            digest.update(f"{path.relative_to(self.root).as_posix()}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()

    def schema(self) -> ImageSchema:
        """As the first readable image has it. Raises BadRecord, or DataError where there is nothing to read."""
        first = next(self._read([]), None)
        if first is None:
            wanted = f"{', '.join(_SUFFIXES)} in one folder per class"
            raise DataError(f"{self.root} holds no readable images, wanted {wanted}.", hint="check `data.source`.")
        channels, height, width = first[1].shape
        return ImageSchema(channels=channels, height=height, width=width, dtype="uint8", classes=tuple(folder.name for folder in self._folders()))

    def load(self) -> RawData:
        """Read everything. Raises BadRecord with the file, or DataError where there is nothing to read."""
        import numpy as np

        schema, notes = self.schema(), list[str]()
        kept = list(self._read(notes))
        images_NCHW = np.stack([image for _, image in kept])
        labels_N = np.array([schema.classes.index(path.parent.name) for path, _ in kept], dtype=np.int64)
        return RawData(inputs_N=images_NCHW, labels_N=labels_N, schema=schema, sha256=self.sha256(), notes=(*notes, *self._ignored()))

    def _read(self, notes: list[str]) -> Iterator[tuple[Path, np.ndarray]]:
        """All readable images as (C, H, W), one by one, each with the shape of the first; the dropped ones go into `notes`."""
        first: tuple[Path, np.ndarray] | None = None
        for row, path in enumerate(self._paths()):
            try:
                mode, pixels = _decode(path, row)
            except BadRecord as error:
                if not self.drop_corrupt:
                    raise
                notes.append(f"dropped: {error.message}")
                continue
            image = _channels_first(path, row, mode, pixels)
            first = first or (path, image)
            if image.shape != first[1].shape:
                raise _unlike(path, row, f"shape {image.shape} (channels, height, width)", f"{first[1].shape} as {first[0]} has")
            yield path, image

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.locate().iterdir() if path.is_dir() and not path.name.startswith("."))

    def _files(self) -> list[Path]:
        return sorted(path for folder in self._folders() for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def _paths(self) -> list[Path]:
        return [path for path in self._files() if path.suffix.lower() in _SUFFIXES]

    def _ignored(self) -> list[str]:
        others = [path for path in self._files() if path.suffix.lower() not in _SUFFIXES]
        return [f"ignored {len(others)} files that are no images, {others[0]} among them"] if others else []


def _decode(path: Path, row: int) -> tuple[str, np.ndarray]:
    """One image's mode and pixels, (H, W) or (H, W, C)."""
    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("reading images needs Pillow, which is not installed.", hint="pip install 'foundry-ray[images]'") from error
    try:
        with Image.open(path) as image:
            image.load()
            return image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        hint = "replace the file, or set `data.clean.corrupt: drop`."
        raise BadRecord(f"{path} (row {row}) is no readable image: {error}.", hint=hint, source=str(path), row=row) from error


def _channels_first(path: Path, row: int, mode: str, pixels: np.ndarray) -> np.ndarray:
    if mode not in _MODES:
        raise _unlike(path, row, f"mode {mode}", " or ".join(_MODES))
    return pixels.reshape(*pixels.shape[:2], _MODES[mode]).transpose(2, 0, 1)


def _unlike(path: Path, row: int, got: str, wanted: str) -> BadRecord:
    hint = "convert the images to one size and mode."
    return BadRecord(f"{path} (row {row}) has {got}, wanted {wanted}.", hint=hint, source=str(path), row=row)
