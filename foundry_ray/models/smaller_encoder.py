"""How a smaller encoder inherits from a larger one: which channels of the stream, which heads, units and layers it keeps.

One set of channels holds for the whole stream, because every layer reads it and adds to it. A layer keeps its strongest heads whole, and its
strongest units. Of layers whose norm stands before the branch, those stay that add most; where it stands after, the first ones do: cutting off
the top is what costs BERT least (arXiv 2004.03844).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from foundry_ray.models import inherit
from foundry_ray.models.encoder import Encoder, Layer, LayerSpec


def smaller(teacher: Encoder, *, width: int, depth: int) -> Encoder:
    """A member of this width and depth; heads and units of a layer shrink in proportion to the width, the width of a head stays.

    Raises:
        RecipeInfeasible: The teacher is narrower or shallower.
    """
    old = teacher.spec()
    if old.width < width:
        raise inherit.infeasible(f"the stream wants {width} channels, but the teacher's has {old.width}.")
    if len(old.layers) < depth:
        raise inherit.infeasible(f"depth is {depth}, but the teacher has {len(old.layers)} layers.")
    kept = _strongest_layers(teacher, depth)
    layers = tuple(_scaled(layer.spec(), width / old.width) for layer in kept)
    with torch.random.fork_rng(devices=[]):
        student = Encoder(replace(old, width=width, layers=layers))
    _inherit(teacher, kept, student)
    return student.to(next(teacher.parameters()).device)


def _scaled(layer: LayerSpec, ratio: float) -> LayerSpec:
    return replace(layer, heads=max(1, round(layer.heads * ratio)), hidden=max(1, round(layer.hidden * ratio)))


def _strongest_layers(teacher: Encoder, depth: int) -> list[Layer]:
    layers = teacher.layer_list()
    if teacher.spec().norm_after:
        return layers[:depth]
    strength = [_norm(layer.attention.out) + _norm(layer.second) for layer in layers]
    chosen = sorted(sorted(range(len(layers)), key=lambda index: -strength[index])[:depth])
    return [layers[index] for index in chosen]


def _norm(layer: nn.Linear) -> float:
    return float(layer.weight.detach().float().norm())


def _inherit(teacher: Encoder, kept: Sequence[Layer], student: Encoder) -> None:
    stream_D = inherit.kept_channels(_makers(teacher, kept), _readers(teacher, kept), student.positions.shape[1], what="the stream")
    if teacher.reads.is_tokens:
        student.embedding = inherit.sliced_table(teacher.embedding, stream_D)
    else:
        student.normalize.load_state_dict(teacher.normalize.state_dict())
        with torch.no_grad():
            for old, new in zip(teacher.patches.parameters(), student.patches.parameters(), strict=True):
                new.copy_(old[stream_D])
    inherit.copy_columns(teacher.positions, student.positions, stream_D)
    _copy_norm(teacher.norm, student.norm, stream_D)
    for source, target in zip(kept, student.layer_list(), strict=True):
        _copy_layer(source, target, stream_D)
    inherit.copy_slice(teacher.head, student.head, rows=None, columns=stream_D)


def _makers(teacher: Encoder, kept: Sequence[Layer]) -> list[Tensor]:
    """What writes to the stream, as (D, ...)."""
    front = teacher.embedding.weight.T if teacher.reads.is_tokens else teacher.patches.weight.flatten(1)
    written = (weight for layer in kept for weight in (layer.attention.out.weight, layer.second.weight))
    return [weight.detach().float() for weight in (front, teacher.positions.T, *written)]


def _readers(teacher: Encoder, kept: Sequence[Layer]) -> list[Tensor]:
    """What reads the stream, as (..., D)."""
    attentions = (layer.attention for layer in kept)
    read = itertools.chain.from_iterable((one.query.weight, one.key.weight, one.value.weight) for one in attentions)
    return [weight.detach().float() for weight in (*read, *(layer.first.weight for layer in kept), teacher.head.weight)]


def _copy_layer(source: Layer, target: Layer, stream_D: Tensor) -> None:
    heads = _heads(source, target)
    for name in ("query", "key", "value"):
        inherit.copy_slice(getattr(source.attention, name), getattr(target.attention, name), rows=heads, columns=stream_D)
    inherit.copy_slice(source.attention.out, target.attention.out, rows=stream_D, columns=heads)
    units = inherit.kept_channels(
        [source.first.weight.detach().float()], [source.second.weight.detach().float()], target.first.out_features, what="a layer"
    )
    inherit.copy_slice(source.first, target.first, rows=units, columns=stream_D)
    inherit.copy_slice(source.second, target.second, rows=stream_D, columns=units)
    _copy_norm(source.first_norm, target.first_norm, stream_D)
    _copy_norm(source.second_norm, target.second_norm, stream_D)


def _heads(source: Layer, target: Layer) -> Tensor:
    """The rows of the strongest heads, whole."""
    attention, width = source.attention, source.attention.head_dim
    makers = [torch.unflatten(layer.weight.detach().float(), 0, (-1, width)) for layer in (attention.query, attention.key, attention.value)]
    read_HDd = torch.unflatten(attention.out.weight.detach().float().T, 0, (-1, width))
    kept_H = inherit.kept_channels([*makers, read_HDd], [], target.spec().heads, what="attention")
    return (kept_H[:, None] * width + torch.arange(width, device=kept_H.device)).flatten()


def _copy_norm(source: nn.LayerNorm, target: nn.LayerNorm, stream_D: Tensor) -> None:
    inherit.copy_columns(source.weight, target.weight, stream_D)
    inherit.copy_columns(source.bias, target.bias, stream_D)
