"""The seams: what a part must offer to stand in for another. Each protocol has two to six methods.

Third parties implement one of these and register it under a name (`foundry_ray.models`, `.tasks`, `.compressors`, ... as entry
points). Heavy libraries appear in annotations only, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from foundry_ray.types import ImageSchema, Json, LatencyResult, Scalar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object of a store: its key, its size, and when it was last written (seconds since the epoch, the store's clock)."""

    key: str
    size_bytes: int
    modified_at_s: float


@runtime_checkable
class ArtifactStore(Protocol):
    """Bytes under portable keys (`[A-Za-z0-9._=-/]`, no `//`, never both `x` and `x/y`). All writes are atomic.

    Every method raises StoreUnavailable or StoreDenied where the store does not answer or refuses.
    """

    @property
    def uri(self) -> str:
        """Where this store is, without credentials."""

    def put(self, key: str, source: bytes | Path, *, if_absent: bool = False) -> None:
        """Write an object whole. With `if_absent`, raise Conflict if it exists already."""

    def get(self, key: str, *, start: int = 0, size: int | None = None) -> bytes:
        """Read an object whole, or `size` bytes from `start` on (fewer where it ends before). Raises ArtifactNotFound."""

    def download(self, key: str, path: Path) -> str:
        """Read an object into a file, which appears complete or not at all. Returns the sha256 (hex) of its bytes. Raises ArtifactNotFound."""

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and time of an object; None where there is none."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix`, in key order."""

    def delete(self, *keys: str) -> None:
        """Remove objects; removing what is not there is no error. Where it fails, some may be gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawData:
    """What a source yields before cleaning: images as uint8 of shape (N, C, H, W), labels as int64 of shape (N,).

    `test_from` is for sources with an official test set: rows from there on are the test split's, rows before are for train and val.
    """

    images_NCHW: np.ndarray
    labels_N: np.ndarray
    schema: ImageSchema
    sha256: str
    test_from: int | None = None
    notes: tuple[str, ...] = ()


class DataSource(Protocol):
    """Where raw records come from."""

    def locate(self) -> Path:
        """The file or folder. Raises DataError with the command that fetches it."""

    def sha256(self) -> str:
        """What identifies the raw bytes, without reading them all where the registry knows it."""

    def load(self) -> RawData:
        """Read everything. Raises BadRecord or FingerprintMismatch."""


class Task(Protocol):
    """What is learnt: the loss, the metrics and the form of a prediction."""

    name: str
    primary_metric: str

    def loss(self, logits_BC: Tensor, labels_B: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Mean loss of a batch, a scalar tensor; `label_smoothing` in [0, 1) is spread over all classes."""

    def metrics(self, logits_NC: np.ndarray, labels_N: np.ndarray) -> Mapping[str, float]:
        """Metrics of whole predictions, the primary one among them."""

    def correct(self, logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
        """Per-sample score whose mean is the primary metric, shape (N,): what intervals are computed from."""

    def prediction(self, logits_C: np.ndarray, classes: Sequence[str]) -> Json:
        """One answer as a user reads it."""


class ModelFamily(Protocol):
    """A family of models that is sized by numbers."""

    name: str

    def build(self, schema: ImageSchema, params: Mapping[str, Scalar]) -> nn.Module:
        """A freshly initialised model. Raises ConfigError for sizes that it cannot have."""

    def shrink(self, model: nn.Module, schema: ImageSchema, params: Mapping[str, Scalar]) -> nn.Module:
        """A smaller member that inherits from `model` the weights that matter most. Raises RecipeInfeasible."""

    def describe(self, model: nn.Module) -> Json:
        """The architecture as JSON with the key `family`, read from the tensors, so that it holds after pruning."""

    def rebuild(self, description: Json) -> nn.Module:
        """The model that `describe` described, with fresh weights. Raises ArtifactCorrupt."""


class Compressor(Protocol):
    """One kind of recipe step."""

    kind: str

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """The step's parameters with defaults filled in, checked at plan time. Raises RecipeInfeasible."""

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, schema: ImageSchema) -> nn.Module:
        """Change the model before its first training step; identity for a step that acts later (quantize, distil)."""


class Engine(Protocol):
    """Who owns the weights, the optimizer and the precision while the loop runs."""

    model: nn.Module
    device: str
    rank: int
    world_size: int

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradient over all ranks, before clipping."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, C) in fp32 of float images, for training."""

    def snapshot(self) -> nn.Module:
        """A plain copy of the model with the weights as they are now; a collective where they are sharded."""

    def step(self, loss: Tensor) -> None:
        """Backward pass and, at an accumulation border, one optimizer step."""

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next step."""

    def reduce_sum(self, values: Sequence[float]) -> Sequence[float]:
        """Element-wise sum over all ranks."""

    def sync_buffers(self) -> None:
        """Average floating-point buffers (batch-norm statistics) over all ranks."""

    def save(self, directory: Path) -> None:
        """Write this rank's part of a resumable checkpoint."""

    def load(self, directory: Path) -> None:
        """Restore from the parts that `save` wrote on all ranks."""


class Reporter(Protocol):
    """Where a stage or a trial tells how it goes."""

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """One epoch or rung is done."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """How far it is, in any unit."""

    def warn(self, message: str) -> None:
        """Something was skipped, replaced or doubted: shown, and kept in the RunRecord."""


class LatencyMeter(Protocol):
    """Measures the time of a deployed graph."""

    def measure(self, onnx: bytes, *, batch_size: int) -> LatencyResult:
        """Time of one forward pass. The result may come from the cache of this graph and device."""

    def device_fingerprint(self) -> str:
        """What identifies the hardware, the runtime and its threads."""


class Clock(Protocol):
    """Time, passed in so that tests and simulations own it."""

    def now_s(self) -> float:
        """Seconds since the epoch."""

    def monotonic_s(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""
