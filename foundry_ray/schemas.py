"""What one input of a data set looks like, and what is known of its values: images with their statistics, or token ids.

Decides: which kinds of input there are, and the refusals of parts that work on images alone, or on rows with one class each. A persisted schema is
told apart by its fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from foundry_ray.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSchema:
    """What one image looks like: channels, height, width, dtype of the stored pixels; and the class names in label order."""

    channels: int
    height: int
    width: int
    dtype: str
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one input: (C, H, W)."""
        return (self.channels, self.height, self.width)

    @property
    def kind(self) -> str:
        return "images"

    @property
    def has_labels(self) -> bool:
        """Whether labels are stored beside the inputs."""
        return True

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of one input's label: a scalar."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSchema:
    """What one sequence looks like.

    Attributes:
        length: Tokens of each sequence.
        vocab_size: Ids are 0..vocab_size-1.
        has_labels: Labels are stored beside the inputs; without them a sequence is its own label, token by token.
        classes: Class names in label order, where each sequence has one class; none where each token has a label.
        padding: The id that fills up short sequences, at their end; None where there is none.
    """

    length: int
    vocab_size: int
    has_labels: bool = False
    classes: tuple[str, ...] = ()
    padding: int | None = None

    @property
    def shape(self) -> tuple[int]:
        """Of one input: (T,)."""
        return (self.length,)

    @property
    def kind(self) -> str:
        return "tokens"

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of one sequence's label: a scalar for a class, (T,) for a label at each token."""
        return () if self.classes else (self.length,)


Schema: TypeAlias = ImageSchema | TokenSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Per-channel statistics of the *training* split, in units of raw pixels: x -> (x - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def classes_only(schema: Schema, *, what: str, hint: str = "`foundry run --until teacher` trains a model of it.") -> Schema:
    """The schema, where each row has one class: what search, compression, export and evaluation ask of it.

    Args:
        schema: Of the data set.
        what: Who cannot work on anything else, for the message.
        hint: What to do instead.

    Raises:
        ConfigError: Each token has a label.
    """
    if schema.classes:
        return schema
    raise ConfigError(f"{what} got {schema.kind} with a label at each token, wanted one class per row.", hint=hint)


def images_only(schema: Schema, *, what: str, hint: str = "for tokens choose the family mlp, rnn or transformer.") -> ImageSchema:
    """The schema, where it is of images: what the families of convolutions ask of it.

    Args:
        schema: Of the data set.
        what: Who cannot work on anything else, for the message.
        hint: What to do instead.

    Raises:
        ConfigError: It is of something else.
    """
    if isinstance(schema, ImageSchema):
        return schema
    got = f"sequences of {schema.length} token ids (vocabulary of {schema.vocab_size})"
    raise ConfigError(f"{what} got {got}, wanted images.", hint=hint)
