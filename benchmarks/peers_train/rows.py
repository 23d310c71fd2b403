"""Fashion-MNIST's training rows as the peers read them: one file of two arrays, read by hand from what `foundry data fetch` fetched."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from benchmarks.record import foundry, timed, work_folder

_IMAGES_HEAD, _LABELS_HEAD = 16, 8
_SIDE = 28


def fashion_rows() -> Path:
    """An .npz with `images`, uint8 (60000, 1, 28, 28), and `labels`, int64 (60000,)."""
    path = work_folder("train_peers") / "fashion.npz"
    if not path.is_file():
        home = work_folder("fashion")
        done = timed(foundry("data", "fetch", "fashion_mnist"), env={"FOUNDRY_HOME": str(home)})
        assert done.code == 0, "Fashion-MNIST could not be fetched"
        folder = home / "datasets" / "fashion_mnist"
        pixels = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()), dtype=np.uint8, offset=_IMAGES_HEAD)
        labels = np.frombuffer(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()), dtype=np.uint8, offset=_LABELS_HEAD)
        np.savez(path, images=pixels.reshape(-1, 1, _SIDE, _SIDE), labels=labels.astype(np.int64))
    return path
