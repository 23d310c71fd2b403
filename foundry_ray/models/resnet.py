"""A residual CNN for small images (arXiv 1512.03385): 3x3 stem, three stages of basic blocks at widths w, 2w, 4w, pooling, a linear head.

Width 32 and depth 2 make 0.70 M parameters. Each block knows its own channel counts, so any pruned member can be described and
rebuilt: the residual stream and the inner channels of each block may have any size.
"""

from __future__ import annotations

import itertools
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
class _BlockSpec:
    """One block: channels inside and out, the stride of its first convolution, and whether its shortcut has a 1x1 projection."""

    inner: int
    out: int
    stride: int
    projected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    """A whole network; what a block takes in is what the one before it gives."""

    family: str
    channels: int
    num_classes: int
    stem: int
    blocks: tuple[_BlockSpec, ...]
    format_version: int = FORMAT_VERSION


class _Block(nn.Module):
    """relu(shortcut(x) + second(relu(first(x))))."""

    def __init__(self, num_in: int, spec: _BlockSpec) -> None:
        super().__init__()
        self.first = ConvNorm(num_in, spec.inner, kernel=3, stride=spec.stride)
        self.second = ConvNorm(spec.inner, spec.out, kernel=3, stride=1)
        self.shortcut = ConvNorm(num_in, spec.out, kernel=1, stride=spec.stride) if spec.projected else None
        self.act = nn.ReLU(inplace=True)
        self.act_out = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(self.act(self.first(x)))
        joined: Tensor = self.act_out(branch + (x if self.shortcut is None else self.shortcut(x)))
        return joined

    def spec(self) -> _BlockSpec:
        return _BlockSpec(inner=self.first.num_out, out=self.second.num_out, stride=self.first.stride, projected=self.shortcut is not None)


class ResNet(nn.Module):
    """The network that a `_Spec` describes. Input: float raw pixels (B, C, H, W); output: logits (B, classes)."""

    family = "resnet"

    def __init__(self, spec: _Spec) -> None:
        super().__init__()
        self.normalize = Normalize(spec.channels)
        self.stem = ConvNorm(spec.channels, spec.stem, kernel=3, stride=1)
        self.act = nn.ReLU(inplace=True)
        widths = [spec.stem, *(block.out for block in spec.blocks)]
        self.blocks = nn.ModuleList(_Block(num_in, block) for num_in, block in zip(widths, spec.blocks, strict=False))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(widths[-1], spec.num_classes)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        x = self.act(self.stem(self.normalize(pixels_BCHW)))
        for block in self.blocks:
            x = block(x)
        pooled = self.pool(x).flatten(1)
        logits: Tensor = self.head(self.dropout(pooled) if self.training else pooled)
        return logits

    def block_list(self) -> list[_Block]:
        """The blocks, typed."""
        return typing.cast("list[_Block]", list(self.blocks))

    def spec(self) -> _Spec:
        """What this network is now, read from its tensors."""
        blocks = tuple(block.spec() for block in self.block_list())
        channels = int(self.stem.conv.weight.shape[1])
        return _Spec(family=self.family, channels=channels, num_classes=int(self.head.weight.shape[0]), stem=self.stem.num_out, blocks=blocks)


@register("resnet")
class ResNetFamily:
    """Residual networks sized by `width` (channels of the first stage) and `depth` (blocks per stage)."""

    name = "resnet"

    def build(self, schema: Schema, params: Mapping[str, Json]) -> nn.Module:
        """A freshly initialised network. Raises OutOfRange, or ConfigError for anything but images."""
        schema = images_only(schema, what="model family resnet")
        size = inherit.size_of(params, family=self.name)
        return ResNet(_sized(schema.channels, len(schema.classes), width=size.width, depth=size.depth))

    def describe(self, model: nn.Module) -> Json:
        """Channel counts of every layer as they are now."""
        assert isinstance(model, ResNet)
        return to_json(model.spec())

    def rebuild(self, description: Json) -> nn.Module:
        """The network of a description, with fresh weights. Raises ArtifactCorrupt."""
        spec = from_json(_Spec, description, what="resnet architecture")
        _check(spec)
        return ResNet(spec)

    def shrink(self, model: nn.Module, schema: Schema, params: Mapping[str, Scalar]) -> nn.Module:
        """A smaller member that keeps, per stage, the strongest channels of the residual stream and the strongest blocks.

        Raises:
            RecipeInfeasible: The model is no resnet, or somewhere narrower or shallower than what is asked for.
        """
        if not isinstance(model, ResNet):
            raise inherit.infeasible(f"the teacher is a {type(model).__name__}, wanted a resnet.")
        schema, size = images_only(schema, what="shrink"), inherit.target_size(params, family=self.name)
        stages = _stages(model)
        if len(stages) != len(_STRIDES):
            raise inherit.infeasible(f"the teacher has {len(stages)} stages, wanted {len(_STRIDES)}.")
        kept = [_strongest_blocks(blocks, size.depth) for blocks in stages]
        with torch.random.fork_rng(devices=[]):
            student = ResNet(_sized(schema.channels, len(schema.classes), width=size.width, depth=size.depth))
        _inherit(model, kept, student)
        return student.to(next(model.parameters()).device)


def _sized(channels: int, num_classes: int, *, width: int, depth: int) -> _Spec:
    blocks = [
        _BlockSpec(inner=width * 2**stage, out=width * 2**stage, stride=stride if index == 0 else 1, projected=stage > 0 and index == 0)
        for stage, stride in enumerate(_STRIDES)
        for index in range(depth)
    ]
    return _Spec(family="resnet", channels=channels, num_classes=num_classes, stem=width, blocks=tuple(blocks))


def _check(spec: _Spec) -> None:
    widths = [spec.stem, *(block.out for block in spec.blocks)]
    if min([spec.channels, spec.num_classes, *widths, *(block.inner for block in spec.blocks)]) < 1:
        raise ArtifactCorrupt("resnet architecture: a layer has no channels, wanted at least 1.", hint="make the model again.")
    for number, (num_in, block) in enumerate(zip(widths, spec.blocks, strict=False)):
        if not block.projected and (block.stride != 1 or block.out != num_in):
            got = f"block {number} takes {num_in} channels, gives {block.out} at stride {block.stride} and has no projection"
            raise ArtifactCorrupt(f"resnet architecture: {got}, wanted equal channels and stride 1.", hint="make the model again.")


def _stages(model: ResNet) -> list[list[_Block]]:
    """Blocks that share one residual stream: each projection begins a new one."""
    stages: list[list[_Block]] = [[]]
    for block in model.block_list():
        if block.shortcut is not None:
            stages.append([])
        stages[-1].append(block)
    return stages


def _strongest_blocks(blocks: Sequence[_Block], depth: int) -> list[_Block]:
    """The block with the projection, and those whose branch adds most to the stream, in their old order."""
    if len(blocks) < depth:
        raise inherit.infeasible(f"depth is {depth}, but a stage of the teacher has {len(blocks)} blocks.")
    strength = [float("inf") if block.shortcut is not None else block.second.norm.weight.detach().float().norm().item() for block in blocks]
    chosen = sorted(sorted(range(len(blocks)), key=lambda index: -strength[index])[:depth])
    return [blocks[index] for index in chosen]


def _inherit(teacher: ResNet, kept: Sequence[Sequence[_Block]], student: ResNet) -> None:
    targets = iter(student.block_list())
    stream: Tensor | None = None
    for number, blocks in enumerate(kept):
        before = stream
        stream = _stream(teacher, kept, number, num_kept=_stream_width(student, number))
        if number == 0:
            inherit.copy_unit(teacher.stem, student.stem, rows=stream, columns=None)
            before = stream
        for block, target in zip(blocks, itertools.islice(targets, len(blocks)), strict=True):
            _copy_block(block, target, reads=before, makes=stream)
            before = stream
    assert stream is not None
    inherit.copy_linear(teacher.head, student.head, columns=stream)
    student.normalize.load_state_dict(teacher.normalize.state_dict())


def _stream_width(student: ResNet, stage: int) -> int:
    """Channels of the residual stream of a stage."""
    return _stages(student)[stage][0].second.num_out


def _stream(teacher: ResNet, kept: Sequence[Sequence[_Block]], stage: int, *, num_kept: int) -> Tensor:
    """Indices of the residual channels that a stage keeps: one set for all layers that make or read the stream."""
    blocks = kept[stage]
    made_by = [block.second.folded() for block in blocks]
    made_by += [block.shortcut.folded() for block in blocks if block.shortcut is not None]
    made_by += [teacher.stem.folded()] if stage == 0 else []
    read_by = [block.first.folded() for block in blocks if block.shortcut is None]
    if stage + 1 < len(kept):
        entry = kept[stage + 1][0]
        read_by += [unit.folded() for unit in (entry.first, entry.shortcut) if unit is not None]
    else:
        read_by.append(teacher.head.weight.detach().float())
    if made_by[0].shape[0] < num_kept:
        raise inherit.infeasible(f"stage {stage + 1} wants {num_kept} channels, but the teacher has {made_by[0].shape[0]}.")
    return inherit.strongest(inherit.channel_importance(made_by, read_by), num_kept)


def _copy_block(source: _Block, target: _Block, *, reads: Tensor | None, makes: Tensor) -> None:
    wanted, present = target.first.num_out, source.first.num_out
    if present < wanted:
        raise inherit.infeasible(f"a block wants {wanted} inner channels, but the teacher's has {present}.")
    inner = inherit.strongest(inherit.channel_importance([source.first.folded()], [source.second.folded()]), wanted)
    inherit.copy_unit(source.first, target.first, rows=inner, columns=reads)
    inherit.copy_unit(source.second, target.second, rows=makes, columns=inner)
    if source.shortcut is not None and target.shortcut is not None:
        inherit.copy_unit(source.shortcut, target.shortcut, rows=makes, columns=reads)
