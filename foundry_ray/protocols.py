"""The seams: what a part must offer to stand in for another. Each protocol has two to six methods.

Third parties implement one of these and register it under a name (`foundry_ray.models`, `.tasks`, `.compressors`, ... as entry
points). Heavy libraries appear in annotations only, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from foundry_ray.observability import StudyView
from foundry_ray.types import CompressionRecipe, Json, LatencyResult, Scalar, Schema

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
    """What a source yields before cleaning.

    Attributes:
        inputs_N: Images as uint8 of shape (N, C, H, W), token ids as int32 of shape (N, T), or texts as objects of shape (N,), of which ids are
            made once the training split is known.
        labels_N: One class per row as int64 of shape (N,), or a label per token as int32 of shape (N, T), -100 where there is none; None
            where the inputs are their own labels.
        test_from: For sources with an official test set: rows from there on are the test split's, rows before are for train and val.
    """

    inputs_N: np.ndarray
    labels_N: np.ndarray | None
    schema: Schema
    sha256: str
    test_from: int | None = None
    notes: tuple[str, ...] = ()


class DataSource(Protocol):
    """Where raw records come from."""

    def locate(self) -> Path:
        """The file or folder. Raises DataError with the command that fetches it."""

    def sha256(self) -> str:
        """What identifies the raw bytes, without reading them all where the registry knows it."""

    def schema(self) -> Schema:
        """What its records look like, for checks at plan time. Raises BadRecord."""

    def load(self) -> RawData:
        """Read everything. Raises BadRecord or FingerprintMismatch."""


class Task(Protocol):
    """What is learnt: the loss, the metrics and the form of a prediction.

    N all samples, B a batch; what follows is the task's own: logits (N, C) and labels (N,) for one class per image, logits (N, T, V) and labels
    (N, T) for a token at each place. Of the primary metric, larger is better.
    """

    name: str
    primary_metric: str

    def check(self, schema: Schema) -> None:
        """Raises ConfigError where this task cannot learn from such a data set."""

    def loss(self, logits_B: Tensor, labels_B: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Mean loss over the samples of a batch, a scalar tensor; `label_smoothing` in [0, 1) is spread over all classes or tokens."""

    def metrics(self, logits_N: np.ndarray, labels_N: np.ndarray) -> Mapping[str, float]:
        """Metrics of whole predictions, the primary one among them."""

    def correct(self, logits_N: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
        """Per-sample score whose mean is the primary metric, shape (N,): what intervals are computed from."""

    def prediction(self, logits: np.ndarray, classes: Sequence[str]) -> Json:
        """One answer, to one sample's logits, as a user reads it."""


class ModelFamily(Protocol):
    """A family of models, sized by numbers or made by a factory of the user's."""

    name: str

    def build(self, schema: Schema, params: Mapping[str, Json]) -> nn.Module:
        """A freshly initialised model. Raises ConfigError for sizes that it cannot have, and inputs that it cannot take."""

    def shrink(self, model: nn.Module, schema: Schema, params: Mapping[str, Scalar]) -> nn.Module:
        """A smaller member that inherits from `model` the weights that matter most. Raises RecipeInfeasible."""

    def describe(self, model: nn.Module) -> Json:
        """The architecture as JSON with the key `family`, read from the tensors, so that it holds after pruning."""

    def rebuild(self, description: Json) -> nn.Module:
        """The model that `describe` described, with fresh weights. Raises ArtifactCorrupt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a recipe step may look at while it changes a model: rows of the training split, never of val or test. N rows.

    Attributes:
        schema: What one input looks like.
        task: Name of the task, whose loss a step may need.
        inputs_N: Rows as they are stored; None where nobody gives any.
        labels_N: Their labels; None where the inputs are their own, or nobody gives any.
        seed: Of whatever a step draws at random.
    """

    schema: Schema
    task: str = ""
    inputs_N: np.ndarray | None = None
    labels_N: np.ndarray | None = None
    seed: int = 0


class Compressor(Protocol):
    """One kind of recipe step."""

    kind: str

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """The step's parameters with defaults filled in, checked at plan time. Raises RecipeInfeasible."""

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """Change the model before its first training step; identity for a step that acts later (quantize, distil)."""


class TrainingAid(Protocol):
    """What a recipe step does while the student trains (a gradual mask, simulated int8), called by the loop of one process.

    What it does is a function of the model's tensors and of `progress` alone, so that a resumed training goes on bit for bit.
    """

    @property
    def settled_at(self) -> float:
        """The share of all steps in [0, 1] after which the student is what was asked for: early stopping counts epochs from there on."""

    def attach(self, model: nn.Module) -> None:
        """Once, before the first step and before a checkpoint is read. Names and shapes of parameters stay; buffers may be added."""

    def before_step(self, progress: float) -> None:
        """A step is about to be taken; `progress` in [0, 1) is the share of all steps that were."""

    def after_step(self, progress: float) -> None:
        """The weights were changed; `progress` in (0, 1] counts that step."""


@runtime_checkable
class ActsOnAverage(Protocol):
    """A training aid whose work must hold in the averaged weights too, which are what is judged and shipped (the zeros of a mask)."""

    def after_average(self, average: Mapping[str, Tensor]) -> None:
        """The step's weights were taken into the average: its tensors by the names of parameters, to be written to. Called after `after_step`."""


@runtime_checkable
class ActsInTraining(Protocol):
    """A compressor that has something to do while the student trains."""

    def aid(self, params: Mapping[str, Scalar], *, given: Given) -> TrainingAid | None:
        """Who does it; None where these parameters ask for nothing."""


@runtime_checkable
class LooksAtRecipe(Protocol):
    """A compressor whose parameters do not go with every other step."""

    def check_beside(self, params: Mapping[str, Scalar], recipe: CompressionRecipe) -> None:
        """All steps were checked by themselves, and are in order. Raises RecipeInfeasible with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A live piece of the training state that this rank holds: write into `tensor`, and the state is changed.

    Attributes:
        slot: What it is of: "weights" (the fp32 ones), the optimizer's own names ("mean", "variance", "momentum", ...), "average".
        name: The parameter, as in `model.named_parameters()`.
        start: Its first element in the flattened tensor.
        total: Elements of that whole tensor; a parameter's own number, except for state of another shape (Adafactor's rows and columns).
        tensor: One dimension, fp32, contiguous.
        is_replicated: Every rank holds the same piece; one of them saves it.
    """

    slot: str
    name: str
    start: int
    total: int
    tensor: Tensor
    is_replicated: bool = False


class Engine(Protocol):
    """Who owns the weights, the optimizer and the precision while the loop runs. Methods marked (c) are collective: all ranks call them.

    A step is `forward`, the loss and `backward` once per micro-batch, then `step`. A batch's inputs are one tensor whose first dimension
    is the sample.
    """

    model: nn.Module
    device: str
    rank: int
    world_size: int

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradient over all ranks, before clipping; not a number where it is not known."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(c) Outputs in fp32, for training, computed in the resolved precision."""

    def evaluate(self, inputs: Tensor) -> Tensor:
        """(c) Outputs in fp32 in eval mode without gradients; in fp32 throughout where the weights are."""

    def backward(self, loss: Tensor) -> None:
        """(c) Add the gradient of one micro-batch's mean loss, divided by the number of micro-batches of a step."""

    def step(self, lr: float) -> bool:
        """(c) Clip, change the weights, forget the gradient. False where fp16 overflowed, and the weights stayed as they were."""

    def reduce(self, values: Sequence[float], *, mode: Literal["sum", "max"] = "sum") -> Sequence[float]:
        """(c) Element-wise sum or maximum over all ranks, in float64."""

    def sync_buffers(self) -> None:
        """(c) Average floating-point buffers (batch-norm statistics) over all ranks."""

    def fragments(self) -> Sequence[Fragment]:
        """What this rank holds of weights and optimizer state, in an order that stays. Cheap: views and not copies."""

    def refresh(self) -> None:
        """(c) Fragments were written to: bring what is computed with in line."""

    def scalars(self) -> Mapping[str, float]:
        """State that is not a tensor and is equal on all ranks: steps taken, the loss scale."""

    def load_scalars(self, scalars: Mapping[str, float]) -> None:
        """Restore what `scalars` gave; names that this engine does not know are ignored."""


class Reporter(Protocol):
    """Where a stage or a trial tells how it goes."""

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """One epoch or rung is done."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """How far it is, in any unit."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """While an epoch runs: loss, lr, grad_norm, samples_per_s, mfu, memory_bytes, ... of the last second or so, after `step` steps."""

    def warn(self, message: str) -> None:
        """Something was skipped, replaced or doubted: shown, and kept in the RunRecord."""


@runtime_checkable
class StudyReporter(Protocol):
    """A reporter that can also show a whole study as it stands. Not every one can: who has a view asks with isinstance."""

    def study(self, view: StudyView) -> None:
        """The study stands so now; at most twice a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeChoice:
    """What runs a served file, as a recipe has it.

    Attributes:
        name: A registered runtime.
        threads: Threads inside one operator; 0: as many as whoever runs it says.
        precision: Of the products of fp32 numbers; a file whose products are of integers keeps those.
    """

    name: str = "onnxruntime"
    threads: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"


class LatencyMeter(Protocol):
    """Measures the time of a deployed graph."""

    def measure(self, onnx: bytes, *, batch_size: int, runtime: RuntimeChoice | None = None) -> LatencyResult:
        """Time of one forward pass, in the default runtime where none is named. The result may come from the cache of this graph and device."""

    def device_fingerprint(self) -> str:
        """What identifies the hardware, the runtimes that may be asked for, and their threads."""


class Clock(Protocol):
    """Time, passed in so that tests and simulations own it."""

    def now_s(self) -> float:
        """Seconds since the epoch."""

    def monotonic_s(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""
