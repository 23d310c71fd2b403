"""A recurrent network (GRU, arXiv 1406.1078, or LSTM) over the rows of an image or over tokens: layers of equal width, the mean over time, a head.

Padding comes after all that a text says, so what a place gives never depends on it; the mean leaves it out. Each layer is a module of its own,
so that each can have its own width. Shapes: B batch, T steps, D width, H units, G gates.
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
from foundry_ray.models.sizes import RnnSize
from foundry_ray.types import FORMAT_VERSION, Json, Scalar, Schema, from_json, to_json

_CELLS: Mapping[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    """A whole network: the cell, units of each layer, and the width of a token's vector where there are tokens."""

    family: str
    reads: Reads
    num_classes: int
    cell: str
    layers: tuple[int, ...]
    vector: int = 0
    format_version: int = FORMAT_VERSION


class Rnn(nn.Module):
    """The network that a `_Spec` describes. Input: float raw pixels (B, C, H, W) or token ids (B, T); output: logits (B, classes)."""

    family = "rnn"

    def __init__(self, spec: _Spec) -> None:
        super().__init__()
        reads, self.reads, self.cell = spec.reads, spec.reads, spec.cell
        if reads.is_tokens:
            self.embedding: Table = embedding(reads.vocab_size, spec.vector)
        else:
            self.normalize = Normalize(reads.channels)
        widths = [spec.vector or reads.channels * reads.width, *spec.layers]
        make = _CELLS[spec.cell]
        self.layers = nn.ModuleList(make(num_in, units, batch_first=True) for num_in, units in zip(widths, spec.layers, strict=False))
        self.pool = MeanPool(reads.padding if reads.is_tokens else None)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(widths[-1], spec.num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        x_BTD = self.embedding(inputs) if self.reads.is_tokens else self.normalize(inputs).transpose(1, 2).flatten(2)
        for layer in self.layers:
            x_BTD = layer(x_BTD)[0]
        pooled_BD = self.pool(x_BTD, inputs)
        logits: Tensor = self.head(self.dropout(pooled_BD) if self.training else pooled_BD)
        return logits

    def layer_list(self) -> list[nn.GRU | nn.LSTM]:
        """The layers, typed."""
        return typing.cast("list[nn.GRU | nn.LSTM]", list(self.layers))

    def spec(self) -> _Spec:
        """What this network is now, read from its tensors."""
        vocab_size, vector = self.embedding.weight.shape if self.reads.is_tokens else (0, 0)
        return _Spec(
            family=self.family,
            reads=inherit.with_vocabulary(self.reads, vocab_size),
            num_classes=int(self.head.weight.shape[0]),
            cell=self.cell,
            layers=tuple(_held(layer)["weight_hh_l0"].shape[1] for layer in self.layer_list()),
            vector=vector,
        )


@register("rnn")
class RnnFamily:
    """Recurrent networks sized by `width` (units of a layer) and `depth` (layers), with a `cell`."""

    name = "rnn"

    def build(self, schema: Schema, params: Mapping[str, Json]) -> nn.Module:
        """A freshly initialised network. Raises OutOfRange, or ConfigError for rows without a class."""
        size = parse_params(RnnSize, params, where="model family rnn")
        return Rnn(_sized(Reads.of(schema, family=self.name), len(schema.classes), cell=size.cell, width=size.width, depth=size.depth))

    def describe(self, model: nn.Module) -> Json:
        """Units of every layer as they are now."""
        assert isinstance(model, Rnn)
        return to_json(model.spec())

    def rebuild(self, description: Json) -> nn.Module:
        """The network of a description, with fresh weights. Raises ArtifactCorrupt."""
        spec = from_json(_Spec, description, what="rnn architecture")
        spec.reads.check(family=self.name)
        if not spec.layers or min([spec.num_classes, *spec.layers]) < 1 or spec.reads.is_tokens != bool(spec.vector) or spec.cell not in _CELLS:
            raise ArtifactCorrupt("rnn architecture: a layer has no units or an unknown cell.", hint="make the model again.")
        return Rnn(spec)

    def shrink(self, model: nn.Module, schema: Schema, params: Mapping[str, Scalar]) -> nn.Module:
        """A smaller member, of the teacher's cell, that keeps the first layers and, in each, the strongest units.

        Raises:
            RecipeInfeasible: The model is no rnn, or somewhere narrower or shallower than what is asked for.
        """
        if not isinstance(model, Rnn):
            raise inherit.infeasible(f"the teacher is a {type(model).__name__}, wanted an rnn.")
        size, old = inherit.parsed(RnnSize, {"cell": model.cell, **params}, family=self.name), model.spec()
        if size.cell != old.cell:
            raise inherit.infeasible(f"the teacher's cell is {old.cell}, wanted {size.cell}.")
        if len(old.layers) < size.depth:
            raise inherit.infeasible(f"depth is {size.depth}, but the teacher has {len(old.layers)} layers.")
        with torch.random.fork_rng(devices=[]):
            student = Rnn(_sized(old.reads, old.num_classes, cell=old.cell, width=size.width, depth=size.depth))
        _inherit(model, student)
        return student.to(next(model.parameters()).device)


def _sized(reads: Reads, num_classes: int, *, cell: str, width: int, depth: int) -> _Spec:
    vector = width if reads.is_tokens else 0
    return _Spec(family="rnn", reads=reads, num_classes=num_classes, cell=cell, layers=(width,) * depth, vector=vector)


def _inherit(teacher: Rnn, student: Rnn) -> None:
    """Copy slices from front to back. A dropped layer sat before the head, which reads the units of the last layer that is kept."""
    sources = teacher.layer_list()[: len(student.layers)]
    readers = [_held(layer)["weight_ih_l0"].float() for layer in sources] + [teacher.head.weight.detach().float()]
    reads: Tensor | None = None
    if teacher.reads.is_tokens:
        made = teacher.embedding.weight.detach().float().T
        reads = inherit.kept_channels([made], [readers[0]], student.embedding.weight.shape[1], what="a token's vector")
        student.embedding = inherit.sliced_table(teacher.embedding, reads)
    else:
        student.normalize.load_state_dict(teacher.normalize.state_dict())
    for number, (source, target) in enumerate(zip(sources, student.layer_list(), strict=True)):
        if readers[number + 1].shape[1] != source.hidden_size:
            raise inherit.infeasible(f"a layer between {source.hidden_size} and {readers[number + 1].shape[1]} units cannot be dropped.")
        recurrent_GHH = _held(source)["weight_hh_l0"].float()
        gates = readers[number].chunk(len(recurrent_GHH) // source.hidden_size)
        makes = inherit.kept_channels(gates, [recurrent_GHH, readers[number + 1]], target.hidden_size, what=f"layer {number + 1}")
        _copy_cell(source, target, units=makes, columns=reads)
        reads = makes
    inherit.copy_slice(teacher.head, student.head, rows=None, columns=reads)


def _copy_cell(source: nn.GRU | nn.LSTM, target: nn.GRU | nn.LSTM, *, units: Tensor, columns: Tensor | None) -> None:
    """The slices of all gates, which lie one below the other."""
    old, new = _held(source), _held(target)
    num_gates = len(old["weight_hh_l0"]) // source.hidden_size
    rows = torch.cat([gate * source.hidden_size + units for gate in range(num_gates)])
    weight = old["weight_ih_l0"][rows]
    new["weight_ih_l0"].copy_(weight if columns is None else weight[:, columns])
    new["weight_hh_l0"].copy_(old["weight_hh_l0"][rows][:, units])
    for name in ("bias_ih_l0", "bias_hh_l0"):
        new[name].copy_(old[name][rows])


def _held(layer: nn.GRU | nn.LSTM) -> dict[str, Tensor]:
    """The tensors of a layer by torch's names; to write into them is to change the layer."""
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}
