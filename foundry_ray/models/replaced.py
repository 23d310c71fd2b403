"""Layers that stand in the place of larger ones, in a model of any family: an embedding with fewer rows, an embedding or a linear layer of low rank.

Each shows what it stands for as `weight` (and `bias`), so that whoever reads sizes off the original reads them off it; what a description says of
them besides is where they stand, and how they are made again. Shapes: O outputs, I inputs, R rank, V tokens, D width, B batch, T places.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.types import Json


class TrimmedEmbedding(nn.Module):
    """An embedding of few tokens that takes the ids of many: `places` says which row an id reads, and it travels with the model.

    Args:
        num_known: Ids that may come in.
        num_rows: Rows that are left.
        width: D.
        padding: The row that is never learnt.
    """

    places: Tensor

    def __init__(self, num_known: int, num_rows: int, width: int, *, padding: int | None = None) -> None:
        super().__init__()
        self.register_buffer("places", torch.zeros(num_known, dtype=torch.int32))
        self.table: nn.Embedding | LowRankEmbedding = nn.Embedding(num_rows, width, padding_idx=padding)

    @property
    def weight(self) -> Tensor:
        """(rows, D)."""
        return self.table.weight

    def forward(self, ids_BT: Tensor) -> Tensor:
        vectors: Tensor = self.table(torch.take(self.places, ids_BT))
        return vectors


class LowRankEmbedding(nn.Module):
    """An embedding (V, D) as (V, R) times (R, D): ALBERT, arXiv 1909.11942, section 3.1. `padding`: the row of the former that is never learnt."""

    def __init__(self, num_rows: int, rank: int, width: int, *, padding: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(num_rows, rank, padding_idx=padding)
        self.project = nn.Linear(rank, width, bias=False)

    @property
    def weight(self) -> Tensor:
        """(V, D)."""
        return functional.linear(self.table.weight, self.project.weight)

    @property
    def padding_idx(self) -> int | None:
        """The row that is never learnt."""
        return self.table.padding_idx

    def forward(self, ids_BT: Tensor) -> Tensor:
        vectors: Tensor = self.project(self.table(ids_BT))
        return vectors


class LowRankLinear(nn.Module):
    """A linear layer (O, I) as (O, R) times (R, I)."""

    def __init__(self, num_in: int, rank: int, num_out: int, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(num_in, rank, bias=False)
        self.second = nn.Linear(rank, num_out, bias=bias)

    @property
    def weight(self) -> Tensor:
        """(O, I)."""
        return self.second.weight @ self.first.weight

    @property
    def bias(self) -> Tensor | None:
        """(O,)."""
        return self.second.bias

    @property
    def in_features(self) -> int:
        """I."""
        return int(self.first.weight.shape[1])

    @property
    def out_features(self) -> int:
        """O."""
        return int(self.second.weight.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        given: Tensor = self.second(self.first(x))
        return given


Table: typing.TypeAlias = nn.Embedding | TrimmedEmbedding | LowRankEmbedding
Replaced: typing.TypeAlias = TrimmedEmbedding | LowRankEmbedding | LowRankLinear


def replacements(model: nn.Module) -> list[Json]:
    """What stands where in a model, outer layers first: enough for `replace_all`."""
    return [{"name": name, **_sizes(module)} for name, module in _found(model)]


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a layer in the place of the one of this name, and wherever else in the model that one stands."""
    old = model.get_submodule(name)
    for place, other in list(model.named_modules(remove_duplicate=False)):
        if other is old:
            model.set_submodule(place, module)


def replace_all(model: nn.Module, wanted: Sequence[Json]) -> None:
    """Put layers where a description has them, with fresh weights. Raises ArtifactCorrupt where they do not fit the model."""
    try:
        for item in wanted:
            fields = typing.cast("dict[str, typing.Any]", item)
            put(model, fields["name"], _made(fields))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ArtifactCorrupt(f"architecture: a replaced layer cannot be made again: {error}.", hint="make the model again.") from error


def _found(model: nn.Module) -> Iterator[tuple[str, Replaced]]:
    for name, module in model.named_modules():
        if isinstance(module, (TrimmedEmbedding, LowRankEmbedding, LowRankLinear)):
            yield name, module


def _sizes(module: Replaced) -> dict[str, Json]:
    if isinstance(module, TrimmedEmbedding):
        num_rows, width = module.weight.shape
        return {"kind": "trimmed_embedding", "known": len(module.places), "rows": num_rows, "width": width, "padding": module.table.padding_idx}
    if isinstance(module, LowRankEmbedding):
        num_rows, rank = module.table.weight.shape
        return {"kind": "low_rank_embedding", "rows": num_rows, "rank": rank, "width": len(module.project.weight), "padding": module.padding_idx}
    num_out, rank = module.second.weight.shape
    has_bias = module.second.bias is not None
    return {"kind": "low_rank_linear", "in": module.first.weight.shape[1], "rank": rank, "out": num_out, "bias": has_bias}


def _made(fields: dict[str, typing.Any]) -> Replaced:
    kind = fields["kind"]
    if kind == "trimmed_embedding":
        return TrimmedEmbedding(fields["known"], fields["rows"], fields["width"], padding=fields.get("padding"))
    if kind == "low_rank_embedding":
        return LowRankEmbedding(fields["rows"], fields["rank"], fields["width"], padding=fields.get("padding"))
    if kind == "low_rank_linear":
        return LowRankLinear(fields["in"], fields["rank"], fields["out"], bias=fields["bias"])
    raise ValueError(f"there is no layer {kind!r}")
