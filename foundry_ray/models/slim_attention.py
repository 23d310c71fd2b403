"""Attention that may have fewer heads than its width suggests, which `nn.MultiheadAttention` cannot: there heads x head width = embedding width.

Queries, keys, values and the output are linear layers of their own, so that whole heads, and the channels that are read and given, can be
cut apart from each other. Shapes: B batch, T queries, S keys, H heads, D width of a head, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry_ray.models.replaced import put


class SlimAttention(nn.Module):
    """Multi-head attention (arXiv 1706.03762, 3.2.2), called as `nn.MultiheadAttention` is; takes batches alone.

    Args:
        embed_dim: E, read and given.
        num_heads: H.
        head_dim: D.
        bias: Whether the four linear layers have one.
        dropout: Share of the attention weights that is dropped in training.
        batch_first: (B, T, E) and not (T, B, E).
    """

    # What nn.TransformerEncoderLayer looks at before it takes a way of its own past `forward`; with these values it never does.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, *, bias: bool, dropout: float, batch_first: bool) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.query = nn.Linear(embed_dim, inner, bias=bias)
        self.key = nn.Linear(embed_dim, inner, bias=bias)
        self.value = nn.Linear(embed_dim, inner, bias=bias)
        self.out = nn.Linear(inner, embed_dim, bias=bias)
        self.head_dim = head_dim
        self.dropout = dropout
        self.batch_first = batch_first

    @classmethod
    def of(cls, attention: nn.MultiheadAttention) -> SlimAttention | None:
        """The same function as `attention`, with its weights; None for a form that this class lacks (other widths of keys, added keys)."""
        if not attention._qkv_same_embed_dim or attention.bias_k is not None or attention.add_zero_attn:
            return None
        bias = attention.in_proj_bias is not None
        slim = cls(
            attention.embed_dim,
            attention.num_heads,
            attention.head_dim,
            bias=bias,
            dropout=attention.dropout,
            batch_first=attention.batch_first,
        )
        with torch.no_grad():
            for layer, weight in zip((slim.query, slim.key, slim.value), attention.in_proj_weight.chunk(3), strict=True):
                layer.weight.copy_(weight)
            slim.out.weight.copy_(attention.out_proj.weight)
            if bias:
                for layer, values in zip((slim.query, slim.key, slim.value), attention.in_proj_bias.chunk(3), strict=True):
                    layer.bias.copy_(values)
                slim.out.bias.copy_(attention.out_proj.bias)
        weight = attention.in_proj_weight
        return slim.to(device=weight.device, dtype=weight.dtype).train(attention.training)

    @property
    def num_heads(self) -> int:
        """As the weights have them now."""
        return int(self.query.weight.shape[0]) // self.head_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention.forward`: boolean masks are True where nothing is attended to, float masks are added."""
        sources = (query, key, value) if self.batch_first else (query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1))
        layers = (self.query, self.key, self.value)
        heads = [layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer, x in zip(layers, sources, strict=True)]
        query_BHTD, key_BHSD, value_BHSD = heads
        mask = _added(attn_mask, key_padding_mask, query_BHTD)
        dropped = self.dropout if self.training else 0.0
        weights_BHTS: Tensor | None = None
        if need_weights:
            scores_BHTS = query_BHTD @ key_BHSD.transpose(-1, -2) / math.sqrt(self.head_dim)
            weights_BHTS = (scores_BHTS if mask is None else scores_BHTS + mask).softmax(-1)
            mixed_BHTD = functional.dropout(weights_BHTS, dropped) @ value_BHSD
        else:
            causal = is_causal and mask is None
            mixed_BHTD = functional.scaled_dot_product_attention(
                query_BHTD, key_BHSD, value_BHSD, attn_mask=mask, dropout_p=dropped, is_causal=causal
            )
        given: Tensor = self.out(mixed_BHTD.transpose(1, 2).flatten(2))
        if weights_BHTS is not None and average_attn_weights:
            weights_BHTS = weights_BHTS.mean(1)
        return (given if self.batch_first else given.transpose(0, 1)), weights_BHTS


def _added(attn_mask: Tensor | None, key_padding_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Both masks as one that is added to scores (B, H, T, S)."""
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask.reshape(like.shape[0], -1, *attn_mask.shape[1:]) if attn_mask.dim() == 3 else attn_mask)
    if key_padding_mask is not None:
        masks.append(key_padding_mask[:, None, None, :])
    added = [torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask for mask in masks]
    return None if not added else sum(added[1:], start=added[0])


def with_slim_attention(model: nn.Module, names: Collection[str] | None = None) -> nn.Module:
    """Put SlimAttention in the place of each `nn.MultiheadAttention` of `model` that it can stand for, or of these; the model's function stays."""
    for name, module in list(model.named_modules()):
        is_meant = bool(name) and (names is None or name in names)
        slim = SlimAttention.of(module) if is_meant and type(module) is nn.MultiheadAttention else None
        if slim is not None:
            put(model, name, slim)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(inner, SlimAttention) for inner in module.modules()):
            module.use_nested_tensor = False  # a shortcut past `forward`, which reads the weights of nn.MultiheadAttention
    return model
