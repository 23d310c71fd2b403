"""The models and the techniques of `benchmarks.compress_table`: five families in two sizes each, and what is done to every one of them.

Whether a technique suits a family is not decided here: the product carries it out, or refuses it with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from foundry_ray import data
from foundry_ray.config import DataConfig, ModelConfig, Settings, SplitConfig, TextConfig, TrainConfig
from foundry_ray.protocols import ArtifactStore
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.types import DatasetRef, Scalar

SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A data set, and how its splits are cut.

    Attributes:
        train: Rows that models are trained on.
        short: As many of them are trained on again after a technique.
        val: Rows on which all is judged.
        test: Rows that are put aside and never opened.
    """

    source: str
    task: str
    train: int
    short: int
    val: int
    test: int
    text: TextConfig | None = None

    def prepared(self, store: ArtifactStore, home: Path) -> DatasetRef:
        """In the store."""
        split = SplitConfig(train=self.train, val=self.val, test=self.test)
        config = DataConfig(source=self.source, split=split, text=self.text)
        return data.prepare(config, task=self.task, seed=SEED, store=store, settings=Settings(home=home), reporter=RecordingReporter())


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A family in one size, and how it is trained: at first, and after a technique.

    Attributes:
        size: `large` is half a million parameters or more, `small` is less.
        int8: The scheme of the joint recipes: convolutions want static int8, linear layers after attention or a recurrence dynamic.
    """

    model: ModelConfig
    size: str
    rows: Rows
    train: TrainConfig
    short: TrainConfig
    int8: str

    @property
    def family(self) -> str:
        return self.model.family

    @property
    def name(self) -> str:
        return f"{self.family} {self.size}"

    @property
    def is_text(self) -> bool:
        return self.rows.text is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """What is asked of the toolbox; `is_trained`: with a short training after it. `sizes`: of which models."""

    name: str
    asks: Mapping[str, Scalar] = field(default_factory=dict)
    is_trained: bool = False
    sizes: tuple[str, ...] = ("large",)


_BOTH = ("large", "small")
AS_GIVEN, PRUNED, PRUNED_IN_SLICES = "as given", "prune 50 %", "prune 50 % of each group, in 8 slices by Taylor"
PRUNED_HEADS = "prune 50 %, of heads too"
INT8 = ("static int8", "int8 weights")

_IMAGES = Rows(source="fashion_mnist", task="image_classification", train=20_000, short=8_000, val=4_000, test=10_000)
_TEXTS = Rows(
    source="spam_assassin", task="text_classification", train=2_600, short=2_600, val=600, test=2_700, text=TextConfig(length=128, vocab_size=6000)
)
_ON_IMAGES = TrainConfig(epochs=5, batch_size=128, lr=3e-3, weight_decay=0.02)
_ON_TEXTS = TrainConfig(epochs=6, batch_size=32, lr=2e-3, weight_decay=0.05, dropout=0.1)
# (width, depth) of the large and of the small member; scales and biases take a larger share of narrow layers, so that no small one is very narrow.
_SIZES: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "cnn": ((48, 2), (16, 2)),
    "resnet": ((28, 2), (16, 2)),
    "mlp": ((448, 2), (64, 2)),
    "transformer": ((96, 2), (112, 1)),
    "rnn": ((96, 2), (112, 1)),
}
_SMALL_VOCABULARY = 2500
_QUICK: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {"cnn": ((16, 1), (8, 1)), "rnn": ((32, 1), (16, 1))}


def setups(*, is_quick: bool = False) -> tuple[Setup, ...]:
    """All families in both sizes; `is_quick`: two, with few rows and one pass over them."""
    sizes = _QUICK if is_quick else _SIZES
    return tuple(
        _setup(family, size, numbers, is_quick=is_quick) for family, both in sizes.items() for size, numbers in zip(_BOTH, both, strict=True)
    )


def _setup(family: str, size: str, numbers: tuple[int, int], *, is_quick: bool) -> Setup:
    is_text = family in ("transformer", "rnn")
    rows, train = (_TEXTS, _ON_TEXTS) if is_text else (_IMAGES, _ON_IMAGES)
    short = train.model_copy(update={"epochs": 3 if is_text else 2, "lr": 1e-3})
    if is_text and size == "small":
        rows = replace(rows, text=TextConfig(length=128, vocab_size=_SMALL_VOCABULARY))
    if is_quick:
        rows = replace(rows, train=600, short=300, val=200, test=200)
        train, short = (config.model_copy(update={"epochs": 1}) for config in (train, short))
    model = ModelConfig(family=family, width=numbers[0], depth=numbers[1])
    return Setup(model=model, size=size, rows=rows, train=train, short=short, int8="dynamic" if is_text else "static")


def techniques(setup: Setup, *, is_quick: bool = False) -> tuple[Technique, ...]:
    """What is done to a model, in the order of the table; every one starts from the same trained weights."""
    student: Mapping[str, Scalar] = {"width": setup.model.width // 2, "depth": 1, "distil_alpha": 0.7}
    joint: Mapping[str, Scalar] = {"prune_ratio": 0.5, "distil_alpha": 0.7, "weight_bits": 8, "quantize.scheme": setup.int8}
    texts: Mapping[str, Scalar] = {"trim_vocabulary.min_count": 2, "factorize.embedding_ratio": 0.25}
    found = (
        Technique(name=AS_GIVEN, sizes=_BOTH),
        Technique(name="as given, trained on", is_trained=True),
        Technique(name=PRUNED, asks={"prune_ratio": 0.5}, is_trained=True),
        Technique(name=PRUNED_IN_SLICES, asks={"prune_ratio": 0.5, **_SLICES}, is_trained=True),
        Technique(name=PRUNED_HEADS, asks={"prune_ratio": 0.5, "prune.heads_ratio": 0.5}, is_trained=True),
        Technique(name="prune 50 %, of layers too", asks={"prune_ratio": 0.5, "prune.layers_ratio": 0.5}, is_trained=True),
        Technique(name="50 % zeros", asks={"sparsify.ratio": 0.5}, is_trained=True),
        Technique(name="2:4 zeros", asks={"sparsify.pattern": "2:4"}, is_trained=True),
        Technique(name="vocabulary trimmed", asks={"trim_vocabulary.min_count": 2}, is_trained=True),
        Technique(name="factorized to a quarter", asks={"factorize.embedding_ratio": 0.25, "factorize.linear_ratio": 0.25}, is_trained=True),
        Technique(name="static int8", asks={"weight_bits": 8}, sizes=_BOTH),
        Technique(name="dynamic int8", asks={"weight_bits": 8, "quantize.scheme": "dynamic"}),
        Technique(name="int8 weights", asks={"weight_bits": 8, "quantize.scheme": "weight_only"}, sizes=_BOTH),
        Technique(name="int4 weights", asks={"weight_bits": 4}),
        Technique(name="fp16 weights", asks={"weight_bits": 16}),
        Technique(name="bf16 weights", asks={"weight_bits": 16, "quantize.number": "bf16"}),
        Technique(name="bf16 products", asks={"runtime": "openvino", "runtime_precision": "bf16"}),
        Technique(name="trained for int8", asks={"weight_bits": 8, "quantize.qat": True}, is_trained=True),
        Technique(name="distilled student of half the width", asks=student, is_trained=True),
        Technique(name="prune 50 %, distil, int8", asks=joint, is_trained=True),
        *((Technique(name="trim, factorize, prune 50 %, distil, int8", asks={**texts, **joint}, is_trained=True),) if setup.is_text else ()),
    )
    quick = (AS_GIVEN, PRUNED, PRUNED_HEADS, "static int8", "prune 50 %, distil, int8")
    return tuple(one for one in found if setup.size in one.sizes and (not is_quick or one.name in quick))


_SLICES: Mapping[str, Scalar] = {"prune.iterations": 8, "prune.criterion": "taylor", "prune.scope": "group"}
