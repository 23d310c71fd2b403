"""Plain arrays as the rows of a compression: what they are, which are held back, and how they are stored. Shapes: N rows, T tokens, C classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from foundry_ray.data import Split
from foundry_ray.data.tokenizer import Tokenizer, sized
from foundry_ray.errors import ConfigError
from foundry_ray.models.modes import evaluating
from foundry_ray.protocols import ArtifactStore, Given, RawData
from foundry_ray.types import DatasetRef, ImageSchema, Schema, TokenSchema

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

_STREAM = 0x68656C64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows with what is known of them.

    Attributes:
        rows_train: Numbers of rows of `inputs_N`, like `rows_held_back`.
        tokenizer: What made them of texts.
    """

    inputs_N: np.ndarray
    labels_N: np.ndarray
    schema: Schema
    task: str
    rows_train: np.ndarray
    rows_held_back: np.ndarray
    tokenizer: Tokenizer | None = None

    @property
    def train(self) -> Split:
        """What is trained on."""
        return Split(inputs_N=self.inputs_N[self.rows_train], labels_N=self.labels_N[self.rows_train])

    @property
    def held_back(self) -> Split:
        """What judges."""
        return Split(inputs_N=self.inputs_N[self.rows_held_back], labels_N=self.labels_N[self.rows_held_back])

    def given(self, *, seed: int) -> Given:
        """What steps may look at."""
        train = self.train
        return Given(schema=self.schema, task=self.task, inputs_N=train.inputs_N, labels_N=train.labels_N, seed=seed)

    def calibration(self, num_rows: int) -> np.ndarray:
        """The first training rows."""
        rows: np.ndarray = self.inputs_N[self.rows_train[:num_rows]]
        return rows

    def published(self, store: ArtifactStore) -> DatasetRef:
        """These rows in the store, so that the artifact says what it was made of: `train`, and `val` for those held back."""
        from foundry_ray.data.preparing import publish_splits

        sha256 = hashlib.sha256(self.inputs_N.tobytes() + self.labels_N.tobytes()).hexdigest()
        raw = RawData(inputs_N=self.inputs_N, labels_N=self.labels_N, schema=self.schema, sha256=sha256)
        splits = {"train": self.rows_train, "val": self.rows_held_back}
        return publish_splits(raw, splits, tokenizer=self.tokenizer, task=self.task, store=store)


def rows_of(data: tuple[np.ndarray, np.ndarray] | Split | Given, model: nn.Module, *, held_back_ratio: float, seed: int, tokenizer: str = "") -> Rows:
    """Arrays as rows, some of those with a label held back.

    Args:
        data: (x, y), a split, or what steps are given, whose schema and task are taken then.
        model: Tells how many classes there are, and tokens.
        held_back_ratio: Share of the rows with a label that is held back.
        seed: Of which.
        tokenizer: The JSON of what made token ids of texts.

    Raises:
        ConfigError: The arrays are neither uint8 images nor token ids with a class per row, too few have a label, the model does not take them, or
            the tokenizer makes others.
    """
    import numpy as np

    from foundry_ray.data.hashing import permutation

    inputs, labels = data if isinstance(data, (tuple, list)) else (data.inputs_N, data.labels_N)
    if inputs is None or labels is None or len(inputs) != len(labels):
        got = f"{0 if inputs is None else len(inputs)} inputs and {0 if labels is None else len(labels)} labels"
        raise ConfigError(f"compress got {got}, wanted as many of the one as of the other.", hint="give a label below 0 where none is known.")
    inputs_N, labels_N = np.asarray(inputs), np.asarray(labels).astype(np.int64)
    if not np.array_equal(labels_N, labels):
        raise ConfigError(f"compress got labels of {np.asarray(labels).dtype}, wanted whole numbers.", hint="a label is the number of its class.")
    schema = data.schema if isinstance(data, Given) else _schema(inputs_N, labels_N, model)
    made_by = _tokenizer(tokenizer, schema) if tokenizer else None
    if made_by is not None and isinstance(schema, TokenSchema):
        schema = replace(schema, padding=made_by.padding)
    labelled = np.flatnonzero(labels_N >= 0)
    num_held_back = round(held_back_ratio * len(labelled))
    if not 0 < num_held_back < len(inputs_N):
        message = f"compress would hold {num_held_back} rows of {len(labelled)} with a label back, wanted at least 1, and some to train on."
        raise ConfigError(message, hint="give more rows with labels, or set `held_back_ratio`.")
    rows_held_back = np.sort(labelled[permutation(len(labelled), seed, _STREAM)[:num_held_back]])
    rows_train = np.setdiff1d(np.arange(len(inputs_N)), rows_held_back)
    task = (data.task if isinstance(data, Given) else "") or ("image_classification" if schema.kind == "images" else "text_classification")
    inputs_N = inputs_N.astype(np.int64) if schema.kind == "tokens" else inputs_N
    return Rows(
        inputs_N=inputs_N, labels_N=labels_N, schema=schema, task=task, rows_train=rows_train, rows_held_back=rows_held_back, tokenizer=made_by
    )


def _tokenizer(document: str, schema: Schema) -> Tokenizer:
    """What makes ids of texts, at the length of the rows. Raises ConfigError where it cannot have made these."""
    if not isinstance(schema, TokenSchema):
        raise ConfigError(f"compress got a tokenizer for {schema.kind}.", hint="leave `tokenizer` out.")
    found = sized(document, schema.length, what="`tokenizer`")
    if found.vocab_size > schema.vocab_size:
        message = f"compress got a tokenizer of {found.vocab_size} tokens for a model of {schema.vocab_size}."
        raise ConfigError(message, hint="give the one that made the rows.")
    return found


def _schema(inputs_N: np.ndarray, labels_N: np.ndarray, model: nn.Module) -> Schema:
    """What one row looks like. Raises ConfigError."""
    is_image, is_tokens = inputs_N.ndim == 4 and inputs_N.dtype.name == "uint8", inputs_N.ndim == 2 and inputs_N.dtype.kind in "iu"
    if labels_N.ndim != 1 or not (is_image or is_tokens):
        got = f"inputs {inputs_N.dtype} {inputs_N.shape} and labels {labels_N.shape}"
        hint = "images are uint8 (N, C, H, W) and tokens integers (N, T), with one class per row."
        raise ConfigError(f"compress got {got}, wanted images or token ids of one class each.", hint=hint)
    classes = tuple(str(index) for index in range(_num_classes(model, inputs_N[:1])))
    if labels_N.max(initial=-1) >= len(classes):
        message = f"compress got the label {labels_N.max()}, but the model answers with {len(classes)} classes."
        raise ConfigError(message, hint="number the classes from 0.")
    if is_image:
        channels, height, width = inputs_N.shape[1:]
        return ImageSchema(channels=channels, height=height, width=width, dtype="uint8", classes=classes)
    return TokenSchema(length=inputs_N.shape[1], vocab_size=_vocab_size(model, inputs_N), has_labels=True, classes=classes)


def _num_classes(model: nn.Module, inputs_1: np.ndarray) -> int:
    import torch

    inputs = torch.from_numpy(inputs_1).to(next(model.parameters()).device)
    try:
        with torch.inference_mode(), evaluating(model):
            return int(model(inputs.float() if inputs.ndim == 4 else inputs.long()).shape[-1])
    except Exception as error:  # the model's own code, which may raise anything
        told = " ".join(str(error).split()) or type(error).__name__
        message = f"compress got a {type(model).__name__} that does not run on inputs of shape {tuple(inputs_1.shape)}: {told}."
        raise ConfigError(message, hint="images come as floats of raw pixels, tokens as int64.") from error


def _vocab_size(model: nn.Module, inputs_NT: np.ndarray) -> int:
    """Rows of the model's largest table of tokens; without one, as many as occur."""
    from torch import nn

    tables = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    return max(tables, default=int(inputs_NT.max()) + 1)
