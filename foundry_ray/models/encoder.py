"""The encoder of a transformer (arXiv 1706.03762) as a module and its description: over patches of an image (arXiv 2010.11929) or over tokens.

Two orders are known: the norm before each branch (arXiv 2002.04745), which trains without a long warm-up, and after it, as BERT has it. The mean
over the places is classified. Shapes: B batch, T places, D width of the stream, H heads.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.models.fronts import MeanPool, Reads, embedding
from foundry_ray.models.layers import Normalize
from foundry_ray.models.replaced import Table
from foundry_ray.types import FORMAT_VERSION

_BLOCKED = -1e4  # added to a score it leaves nothing after the softmax, and it is a number in fp16
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """One layer: heads, the width of each, and units of the feed-forward part."""

    heads: int
    head_dim: int
    hidden: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """A whole encoder.

    Attributes:
        width: Of the stream that all layers read and add to.
        patch: Side of a patch, for images.
        norm_after: The norm stands after each branch, and after the embedding, instead of before.
        activation: Of the feed-forward part.
        norm_eps: Added to the variance.
    """

    family: str
    reads: Reads
    num_classes: int
    width: int
    layers: tuple[LayerSpec, ...]
    patch: int = 0
    norm_after: bool = False
    activation: str = "relu"
    norm_eps: float = 1e-5
    format_version: int = FORMAT_VERSION

    @property
    def num_places(self) -> int:
        """T."""
        reads = self.reads
        return reads.length if reads.is_tokens else (reads.height // self.patch) * (reads.width // self.patch)

    def check(self) -> None:
        """Raises ArtifactCorrupt where the description does not hang together."""
        self.reads.check(family=self.family)
        sizes = [size for layer in self.layers for size in (layer.heads, layer.head_dim, layer.hidden)]
        has_patches = self.reads.is_tokens or (self.patch > 0 and self.num_places > 0)
        if not self.layers or min([self.num_classes, self.width, *sizes]) < 1 or not has_patches or self.activation not in _ACTIVATIONS:
            raise ArtifactCorrupt(f"{self.family} architecture: a layer has no channels, wanted at least 1.", hint="make the model again.")


class SelfAttention(nn.Module):
    """Attention of a sequence to itself. Queries, keys, values and the output are layers of their own, so that heads can be cut from them.

    Args:
        width: D.
        heads: At first; from then on as many as the weights have.
        head_dim: Width of a head.
    """

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)
        self.head_dim = head_dim

    def forward(self, x_BTD: Tensor, blocked_B11T: Tensor | None) -> Tensor:
        q_BHTd, k_BHTd, v_BHTd = (self._split(layer(x_BTD)) for layer in (self.query, self.key, self.value))
        mask = None if blocked_B11T is None else blocked_B11T.type_as(q_BHTd) * _BLOCKED
        mixed_BHTd = functional.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, attn_mask=mask)
        given: Tensor = self.out(mixed_BHTd.transpose(1, 2).flatten(2))
        return given

    def _split(self, x_BTI: Tensor) -> Tensor:
        return torch.unflatten(x_BTI, 2, (-1, self.head_dim)).transpose(1, 2)


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to the stream."""

    def __init__(self, spec: EncoderSpec, layer: LayerSpec) -> None:
        super().__init__()
        self.norm_after = spec.norm_after
        self.attention = SelfAttention(spec.width, layer.heads, layer.head_dim)
        self.first_norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.first = nn.Linear(spec.width, layer.hidden)
        self.act = _ACTIVATIONS[spec.activation]()
        self.second = nn.Linear(layer.hidden, spec.width)
        self.second_norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x_BTD: Tensor, blocked_B11T: Tensor | None) -> Tensor:
        if self.norm_after:
            x_BTD = self.first_norm(x_BTD + self.dropout(self.attention(x_BTD, blocked_B11T)))
            after: Tensor = self.second_norm(x_BTD + self.dropout(self.second(self.act(self.first(x_BTD)))))
            return after
        x_BTD = x_BTD + self.dropout(self.attention(self.first_norm(x_BTD), blocked_B11T))
        before: Tensor = x_BTD + self.dropout(self.second(self.act(self.first(self.second_norm(x_BTD)))))
        return before

    def spec(self) -> LayerSpec:
        attention = self.attention
        heads = int(attention.query.weight.shape[0]) // attention.head_dim
        return LayerSpec(heads=heads, head_dim=attention.head_dim, hidden=int(self.first.weight.shape[0]))


class Encoder(nn.Module):
    """The encoder that a spec describes. Input: float raw pixels (B, C, H, W) or token ids (B, T); output: logits (B, classes)."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        reads, self._made_as = spec.reads, spec
        self.family, self.reads = spec.family, reads
        if reads.is_tokens:
            self.embedding: Table = embedding(reads.vocab_size, spec.width)
        else:
            self.normalize = Normalize(reads.channels)
            self.patches = nn.Conv2d(reads.channels, spec.width, spec.patch, spec.patch)
        self.positions = nn.Parameter(torch.randn(spec.num_places, spec.width) * 0.02)
        self.norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.layers = nn.ModuleList(Layer(spec, layer) for layer in spec.layers)
        self.pool = MeanPool(reads.padding if reads.is_tokens else None)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(spec.width, spec.num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        x_BTD = self.embedding(inputs) if self.reads.is_tokens else self.patches(self.normalize(inputs)).flatten(2).transpose(1, 2)
        x_BTD = x_BTD + self.positions
        padding = self.reads.padding if self.reads.is_tokens else None
        blocked_B11T = None if padding is None else torch.eq(inputs, padding).unsqueeze(1).unsqueeze(1)
        if self._made_as.norm_after:
            x_BTD = self.norm(x_BTD)
        for layer in self.layers:
            x_BTD = layer(x_BTD, blocked_B11T)
        if not self._made_as.norm_after:
            x_BTD = self.norm(x_BTD)
        pooled_BD = self.pool(x_BTD, inputs)
        logits: Tensor = self.head(self.dropout(pooled_BD) if self.training else pooled_BD)
        return logits

    def layer_list(self) -> list[Layer]:
        """The layers, typed."""
        return typing.cast("list[Layer]", list(self.layers))

    def spec(self) -> EncoderSpec:
        """What this encoder is now, read from its tensors."""
        rows = int(self.embedding.weight.shape[0]) if self.reads.is_tokens else 0
        return replace(
            self._made_as,
            reads=replace(self.reads, vocab_size=rows),
            num_classes=int(self.head.weight.shape[0]),
            width=int(self.positions.shape[1]),
            layers=tuple(layer.spec() for layer in self.layer_list()),
        )
