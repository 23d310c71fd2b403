"""What families share that take images or token ids: how a schema becomes a part of a description, and how a sequence becomes one vector.

Shapes: B batch, C channels, H height, W width, T places of a sequence, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foundry_ray.errors import ArtifactCorrupt, ConfigError
from foundry_ray.types import ImageSchema, Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What a model reads: images (`channels`, `height`, `width`), or rows of `length` token ids.

    Attributes:
        vocab_size: Rows of the embedding; 0 for images.
        padding: The id that stands for nothing.
    """

    channels: int = 0
    height: int = 0
    width: int = 0
    length: int = 0
    vocab_size: int = 0
    padding: int | None = None

    @classmethod
    def of(cls, schema: Schema, *, family: str) -> Reads:
        """From a data set's schema. Raises ConfigError where rows have no class."""
        if not schema.classes:
            hint = "`family: import:package.module:factory` brings a model with an output at each token."
            raise ConfigError(f"model family {family} got {schema.kind} with a label at each token, wanted one class per row.", hint=hint)
        if isinstance(schema, ImageSchema):
            return cls(channels=schema.channels, height=schema.height, width=schema.width)
        return cls(length=schema.length, vocab_size=schema.vocab_size, padding=schema.padding)

    @property
    def is_tokens(self) -> bool:
        return self.vocab_size > 0

    def check(self, *, family: str) -> None:
        """Raises ArtifactCorrupt for sizes that no input has."""
        sizes = (self.length, self.vocab_size) if self.is_tokens else (self.channels, self.height, self.width)
        if min(sizes) < 1:
            raise ArtifactCorrupt(f"{family} architecture: it reads inputs of size {sizes}, wanted at least 1.", hint="make the model again.")


class MeanPool(nn.Module):
    """The mean over the places of a sequence (B, T, D) that hold something: (B, D). A row of padding alone gives 0.

    Args:
        padding: The id that stands for nothing; None where each place holds something.
    """

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x_BTD: Tensor, inputs: Tensor) -> Tensor:
        if self.padding is None:
            return x_BTD.mean(1)
        kept_BT1 = (inputs != self.padding).unsqueeze(2).type_as(x_BTD)
        return (x_BTD * kept_BT1).sum(1) / kept_BT1.sum(1).clamp(min=1)


def embedding(num_rows: int, width: int) -> nn.Embedding:
    """A table of vectors with a standard deviation of 0.02, as in BERT (arXiv 1810.04805): torch's own, 1, drowns what is added to it."""
    table = nn.Embedding(num_rows, width)
    with torch.no_grad():
        table.weight.mul_(0.02)
    return table
