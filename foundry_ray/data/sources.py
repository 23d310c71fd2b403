"""Where raw records come from: a registered data set, a folder of images, a file of texts, or one of token ids.

Decides: which of them a `data.source` means, and what identifies its bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_ray.config import DataConfig, Settings, TextConfig
from foundry_ray.data import formats, registry, text
from foundry_ray.data.folder import FolderSource
from foundry_ray.data.tokens import TokenSource
from foundry_ray.errors import BadRecord, ConfigError
from foundry_ray.protocols import DataSource, RawData
from foundry_ray.types import ImageSchema, canonical_sha256

if TYPE_CHECKING:
    import numpy as np


def open_source(config: DataConfig, settings: Settings) -> DataSource:
    """The source that a pipeline names.

    Raises:
        DataError: It is neither registered nor a folder nor a file of texts or tokens.
        ConfigError: It holds no texts, and `data.text` says how to read them.
    """
    source = _source(config, settings)
    if config.text is not None and not isinstance(source, text.TextSource | text.RegisteredTextSource):
        message = f"data.text is set, but data.source is {config.source}, which holds no texts."
        raise ConfigError(message, hint="leave `data.text` out, or name a .csv or .jsonl file.")
    return source


def _source(config: DataConfig, settings: Settings) -> DataSource:
    how, drop_corrupt = config.text or TextConfig(), config.clean.corrupt == "drop"
    if config.source not in registry.names() and Path(config.source).is_dir():
        return FolderSource(Path(config.source), drop_corrupt=drop_corrupt)
    if config.source.endswith(".npz"):
        return TokenSource(Path(config.source))
    if config.source.endswith(text.SUFFIXES):
        return text.TextSource(Path(config.source), how, drop_corrupt=drop_corrupt)
    item = registry.registered(config.source)
    return text.RegisteredTextSource(item, settings, how) if item.schema is None else RegisteredSource(item, settings)


@dataclass(frozen=True, slots=True)
class RegisteredSource:
    """A data set of images of the registry. Its bytes are verified when they are read."""

    item: registry.Registered
    settings: Settings

    def locate(self) -> Path:
        """The folder of its files. Raises DataError with the command that fetches it."""
        return registry.locate(self.item, self.settings)

    def sha256(self) -> str:
        """A hash of the promised hashes: nothing is read."""
        return canonical_sha256(dict(self.item.files))

    def schema(self) -> ImageSchema:
        """As the registry has it: nothing is read."""
        assert self.item.schema is not None, "it is of images"
        return self.item.schema

    def load(self) -> RawData:
        """Read everything. Raises FingerprintMismatch or BadRecord."""
        place = self.locate()
        contents = {
            str(place / file): formats.gunzip(registry.read_verified(place / file, sha256, name=self.item.name), source=str(place / file))
            for file, sha256 in self.item.files.items()
        }
        read: Callable[[dict[str, bytes]], RawData] = self._read_csv if self.item.format == "csv" else self._read_idx
        return read(contents)

    def _read_csv(self, contents: dict[str, bytes]) -> RawData:
        ((source, text),) = contents.items()
        schema = self.schema()
        num_pixels = schema.height * schema.width
        pixels_ND, labels_N = formats.parse_csv(
            text, num_pixels=num_pixels, max_value=self.item.max_value, num_classes=len(schema.classes), source=source
        )
        images_NCHW = pixels_ND.reshape(-1, *schema.shape)
        return RawData(inputs_N=images_NCHW, labels_N=labels_N, schema=schema, sha256=self.sha256())

    def _read_idx(self, contents: dict[str, bytes]) -> RawData:
        import numpy as np

        (train_images, train_labels, test_images, test_labels) = contents.items()
        parts = [self._read_pair(train_images, train_labels), self._read_pair(test_images, test_labels)]
        images_NCHW = np.concatenate([images for images, _ in parts])
        labels_N = np.concatenate([labels for _, labels in parts])
        return RawData(inputs_N=images_NCHW, labels_N=labels_N, schema=self.schema(), sha256=self.sha256(), test_from=len(parts[0][1]))

    def _read_pair(self, images: tuple[str, bytes], labels: tuple[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
        schema = self.schema()
        images_NHW = formats.parse_idx(images[1], num_dims=3, source=images[0])
        raw_N = formats.parse_idx(labels[1], num_dims=1, source=labels[0])
        if images_NHW.shape != (len(raw_N), schema.height, schema.width):
            message = f"{images[0]} holds {images_NHW.shape}, wanted {(len(raw_N), schema.height, schema.width)}: a label for each image."
            raise BadRecord(message, hint="fetch the data set again.", source=images[0])
        return images_NHW[:, None], formats.check_labels(raw_N, num_classes=len(schema.classes), source=labels[0])
