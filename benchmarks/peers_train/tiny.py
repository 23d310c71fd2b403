"""A language model of a few thousand parameters, to see that a script works before a large one takes its minutes."""

from __future__ import annotations

import typing

import torch
from torch import Tensor, nn

from foundry_ray.types import TokenSchema

_WIDTH = 32


def build(schema: TokenSchema) -> nn.Module:
    """A causal transformer of two layers whose head shares the embedding's weights."""
    return _Tiny(schema.vocab_size, schema.length)


class _Tiny(nn.Module):
    def __init__(self, vocab_size: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, _WIDTH)
        self.places = nn.Embedding(length, _WIDTH)
        layer = nn.TransformerEncoderLayer(_WIDTH, 4, 2 * _WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(_WIDTH, vocab_size, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        length = tokens_BT.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden_BTC = self.layers(self.embedding(tokens_BT) + self.places(torch.arange(length)), mask=mask, is_causal=True)
        return typing.cast(Tensor, self.head(hidden_BTC))
