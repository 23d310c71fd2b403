"""A plain CNN without shortcuts: three stages of 3x3 conv-norm-relu at widths w, 2w, 4w, pooling, a linear head.

Cheaper per layer than a residual network, and every layer's channels can be cut on their own.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.models import inherit, register
from foundry_ray.models.layers import ConvNorm, Normalize
from foundry_ray.schemas import images_only
from foundry_ray.types import FORMAT_VERSION, Json, Scalar, Schema, from_json, to_json

_STRIDES = (1, 2, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LayerSpec:
    """Output channels and stride of one layer; `opens_stage` marks the first of a stage."""

    out: int
    stride: int
    opens_stage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    """A whole network; what a layer takes in is what the one before it gives."""

    family: str
    channels: int
    num_classes: int
    layers: tuple[_LayerSpec, ...]
    format_version: int = FORMAT_VERSION


class Cnn(nn.Module):
    """The network that a `_Spec` describes. Input: float raw pixels (B, C, H, W); output: logits (B, classes)."""

    family = "cnn"

    def __init__(self, spec: _Spec) -> None:
        super().__init__()
        self.normalize = Normalize(spec.channels)
        widths = [spec.channels, *(layer.out for layer in spec.layers)]
        self.layers = nn.ModuleList(
            ConvNorm(num_in, layer.out, kernel=3, stride=layer.stride) for num_in, layer in zip(widths, spec.layers, strict=False)
        )
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(widths[-1], spec.num_classes)
        self.opens_stage = tuple(layer.opens_stage for layer in spec.layers)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        x = self.normalize(pixels_BCHW)
        for layer in self.layers:
            x = self.act(layer(x))
        pooled = self.pool(x).flatten(1)
        logits: Tensor = self.head(self.dropout(pooled) if self.training else pooled)
        return logits

    def layer_list(self) -> list[ConvNorm]:
        """The layers, typed."""
        return typing.cast("list[ConvNorm]", list(self.layers))

    def spec(self) -> _Spec:
        """What this network is now, read from its tensors."""
        layers = tuple(
            _LayerSpec(out=layer.num_out, stride=layer.stride, opens_stage=opens)
            for layer, opens in zip(self.layer_list(), self.opens_stage, strict=True)
        )
        channels = int(self.layer_list()[0].conv.weight.shape[1])
        return _Spec(family=self.family, channels=channels, num_classes=int(self.head.weight.shape[0]), layers=layers)


@register("cnn")
class CnnFamily:
    """Plain CNNs sized by `width` (channels of the first stage) and `depth` (layers per stage)."""

    name = "cnn"

    def build(self, schema: Schema, params: Mapping[str, Json]) -> nn.Module:
        """A freshly initialised network. Raises OutOfRange, or ConfigError for anything but images."""
        schema = images_only(schema, what="model family cnn")
        size = inherit.size_of(params, family=self.name)
        return Cnn(_sized(schema.channels, len(schema.classes), width=size.width, depth=size.depth))

    def describe(self, model: nn.Module) -> Json:
        """Channel counts of every layer as they are now."""
        assert isinstance(model, Cnn)
        return to_json(model.spec())

    def rebuild(self, description: Json) -> nn.Module:
        """The network of a description, with fresh weights. Raises ArtifactCorrupt."""
        spec = from_json(_Spec, description, what="cnn architecture")
        if not spec.layers or min([spec.channels, spec.num_classes, *(layer.out for layer in spec.layers)]) < 1:
            raise ArtifactCorrupt("cnn architecture: a layer has no channels, wanted at least 1.", hint="make the model again.")
        return Cnn(spec)

    def shrink(self, model: nn.Module, schema: Schema, params: Mapping[str, Scalar]) -> nn.Module:
        """A smaller member that keeps each stage's first layers and, in each, the strongest channels.

        Raises:
            RecipeInfeasible: The model is no cnn, or somewhere narrower or shallower than what is asked for.
        """
        if not isinstance(model, Cnn):
            raise inherit.infeasible(f"the teacher is a {type(model).__name__}, wanted a cnn.")
        schema, size = images_only(schema, what="shrink"), inherit.target_size(params, family=self.name)
        kept = [layer for layers in _stages(model) for layer in _first(layers, size.depth)]
        with torch.random.fork_rng(devices=[]):
            student = Cnn(_sized(schema.channels, len(schema.classes), width=size.width, depth=size.depth))
        _inherit(model, kept, student)
        return student.to(next(model.parameters()).device)


def _sized(channels: int, num_classes: int, *, width: int, depth: int) -> _Spec:
    layers = tuple(
        _LayerSpec(out=width * 2**stage, stride=stride if index == 0 else 1, opens_stage=index == 0)
        for stage, stride in enumerate(_STRIDES)
        for index in range(depth)
    )
    return _Spec(family="cnn", channels=channels, num_classes=num_classes, layers=layers)


def _stages(model: Cnn) -> list[list[ConvNorm]]:
    stages: list[list[ConvNorm]] = []
    for layer, opens in zip(model.layer_list(), model.opens_stage, strict=True):
        if opens or not stages:
            stages.append([])
        stages[-1].append(layer)
    if len(stages) != len(_STRIDES):
        raise inherit.infeasible(f"the teacher has {len(stages)} stages, wanted {len(_STRIDES)}.")
    return stages


def _first(layers: Sequence[ConvNorm], depth: int) -> Sequence[ConvNorm]:
    if len(layers) < depth:
        raise inherit.infeasible(f"depth is {depth}, but a stage of the teacher has {len(layers)} layers.")
    return layers[:depth]


def _inherit(teacher: Cnn, kept: Sequence[ConvNorm], student: Cnn) -> None:
    """Copy slices layer by layer.

    A dropped layer sat between two of equal width, so the channel numbers of its reader are those of the last layer that is kept.
    """
    reads: Tensor | None = None
    readers = [*(layer.folded() for layer in kept[1:]), teacher.head.weight.detach().float()]
    for (source, reader), target in zip(zip(kept, readers, strict=True), student.layer_list(), strict=True):
        if source.num_out < target.num_out:
            raise inherit.infeasible(f"a layer wants {target.num_out} channels, but the teacher's has {source.num_out}.")
        if reader.shape[1] != source.num_out:
            raise inherit.infeasible(f"a layer between {source.num_out} and {reader.shape[1]} channels cannot be dropped.")
        makes = inherit.strongest(inherit.channel_importance([source.folded()], [reader]), target.num_out)
        inherit.copy_unit(source, target, rows=makes, columns=reads)
        reads = makes
    assert reads is not None
    inherit.copy_linear(teacher.head, student.head, columns=reads)
    student.normalize.load_state_dict(teacher.normalize.state_dict())
