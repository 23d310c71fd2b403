"""A multilayer perceptron: the pixels of an image, or the mean of its tokens' vectors (a bag of words), through equal layers of linear and relu.

Shapes: B batch, D width.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foundry_ray.config import parse_params
from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.models import inherit, register
from foundry_ray.models.fronts import MeanPool, Reads, embedding
from foundry_ray.models.layers import Normalize
from foundry_ray.models.replaced import Table
from foundry_ray.models.sizes import Size
from foundry_ray.types import FORMAT_VERSION, Json, Scalar, Schema, from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    """A whole network: units of each layer, and the width of a token's vector where there are tokens."""

    family: str
    reads: Reads
    num_classes: int
    layers: tuple[int, ...]
    vector: int = 0
    format_version: int = FORMAT_VERSION


class Mlp(nn.Module):
    """The network that a `_Spec` describes. Input: float raw pixels (B, C, H, W) or token ids (B, T); output: logits (B, classes)."""

    family = "mlp"

    def __init__(self, spec: _Spec) -> None:
        super().__init__()
        reads, self.reads = spec.reads, spec.reads
        if reads.is_tokens:
            self.embedding: Table = embedding(reads.vocab_size, spec.vector)
            self.pool = MeanPool(reads.padding)
        else:
            self.normalize = Normalize(reads.channels)
        widths = [spec.vector or reads.channels * reads.height * reads.width, *spec.layers]
        self.layers = nn.ModuleList(nn.Linear(num_in, num_out) for num_in, num_out in zip(widths, spec.layers, strict=False))
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(widths[-1], spec.num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        x_BD = self.pool(self.embedding(inputs), inputs) if self.reads.is_tokens else self.normalize(inputs).flatten(1)
        for layer in self.layers:
            x_BD = self.act(layer(x_BD))
        logits: Tensor = self.head(self.dropout(x_BD) if self.training else x_BD)
        return logits

    def layer_list(self) -> list[nn.Linear]:
        """The layers, typed."""
        return typing.cast("list[nn.Linear]", list(self.layers))

    def spec(self) -> _Spec:
        """What this network is now, read from its tensors."""
        vocab_size, vector = self.embedding.weight.shape if self.reads.is_tokens else (0, 0)
        return _Spec(
            family=self.family,
            reads=inherit.with_vocabulary(self.reads, vocab_size),
            num_classes=int(self.head.weight.shape[0]),
            layers=tuple(int(layer.weight.shape[0]) for layer in self.layer_list()),
            vector=vector,
        )


@register("mlp")
class MlpFamily:
    """Multilayer perceptrons sized by `width` (units of a layer) and `depth` (layers)."""

    name = "mlp"

    def build(self, schema: Schema, params: Mapping[str, Json]) -> nn.Module:
        """A freshly initialised network. Raises OutOfRange, or ConfigError for rows without a class."""
        size = parse_params(Size, params, where="model family mlp")
        return Mlp(_sized(Reads.of(schema, family=self.name), len(schema.classes), width=size.width, depth=size.depth))

    def describe(self, model: nn.Module) -> Json:
        """Units of every layer as they are now."""
        assert isinstance(model, Mlp)
        return to_json(model.spec())

    def rebuild(self, description: Json) -> nn.Module:
        """The network of a description, with fresh weights. Raises ArtifactCorrupt."""
        spec = from_json(_Spec, description, what="mlp architecture")
        spec.reads.check(family=self.name)
        if not spec.layers or min([spec.num_classes, *spec.layers]) < 1 or spec.reads.is_tokens != bool(spec.vector):
            raise ArtifactCorrupt("mlp architecture: a layer has no units, wanted at least 1.", hint="make the model again.")
        return Mlp(spec)

    def shrink(self, model: nn.Module, schema: Schema, params: Mapping[str, Scalar]) -> nn.Module:
        """A smaller member that keeps the first layers and, in each, the strongest units.

        Raises:
            RecipeInfeasible: The model is no mlp, or somewhere narrower or shallower than what is asked for.
        """
        if not isinstance(model, Mlp):
            raise inherit.infeasible(f"the teacher is a {type(model).__name__}, wanted an mlp.")
        size, old = inherit.parsed(Size, params, family=self.name), model.spec()
        if len(old.layers) < size.depth:
            raise inherit.infeasible(f"depth is {size.depth}, but the teacher has {len(old.layers)} layers.")
        with torch.random.fork_rng(devices=[]):
            student = Mlp(_sized(old.reads, old.num_classes, width=size.width, depth=size.depth))
        _inherit(model, student)
        return student.to(next(model.parameters()).device)


def _sized(reads: Reads, num_classes: int, *, width: int, depth: int) -> _Spec:
    vector = width if reads.is_tokens else 0
    return _Spec(family="mlp", reads=reads, num_classes=num_classes, layers=(width,) * depth, vector=vector)


def _inherit(teacher: Mlp, student: Mlp) -> None:
    """Copy slices from front to back. A dropped layer sat before the head, which reads the units of the last layer that is kept."""
    sources = teacher.layer_list()[: len(student.layers)]
    weights = [layer.weight.detach().float() for layer in (*sources, teacher.head)]
    reads: Tensor | None = None
    if teacher.reads.is_tokens:
        made = teacher.embedding.weight.detach().float().T
        reads = inherit.kept_channels([made], [weights[0]], student.embedding.weight.shape[1], what="a token's vector")
        student.embedding = inherit.sliced_table(teacher.embedding, reads)
    else:
        student.normalize.load_state_dict(teacher.normalize.state_dict())
    for number, (source, target) in enumerate(zip(sources, student.layer_list(), strict=True)):
        if weights[number + 1].shape[1] != source.out_features:
            raise inherit.infeasible(f"a layer between {source.out_features} and {weights[number + 1].shape[1]} units cannot be dropped.")
        makes = inherit.kept_channels([weights[number]], [weights[number + 1]], target.out_features, what=f"layer {number + 1}")
        inherit.copy_slice(source, target, rows=makes, columns=reads)
        reads = makes
    inherit.copy_slice(teacher.head, student.head, rows=None, columns=reads)
