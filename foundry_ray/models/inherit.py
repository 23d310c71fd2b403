"""How a smaller model inherits weights: which channels matter most, and how their slices are copied.

Importance of a channel is the L2 norm of everything that makes or reads it, after batch norm is folded into the convolutions
(the group norm of DepGraph, arXiv 2301.12900): raw convolution weights before a batch norm have no scale of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from foundry_ray.config import Section, parse_params
from foundry_ray.errors import ConfigError, RecipeInfeasible
from foundry_ray.models.fronts import Reads
from foundry_ray.models.layers import ConvNorm
from foundry_ray.models.replaced import Table, TrimmedEmbedding
from foundry_ray.models.sizes import Size
from foundry_ray.types import Json, Scalar

S = TypeVar("S", bound=Section)


def channel_importance(made_by: Iterable[Tensor], read_by: Iterable[Tensor]) -> Tensor:
    """L2 norm per channel over the rows of the weights that make it and the columns of those that read it."""
    squares = [weight.flatten(1).square().mean(1) for weight in made_by]
    squares += [weight.transpose(0, 1).flatten(1).square().mean(1) for weight in read_by]
    return torch.stack(squares).sum(0).sqrt()


def strongest(importance_C: Tensor, num_kept: int) -> Tensor:
    """Sorted indices of the `num_kept` most important channels; ties go to the lower index."""
    order = torch.argsort(importance_C, descending=True, stable=True)
    return order[:num_kept].sort().values


def copy_unit(source: ConvNorm, target: ConvNorm, *, rows: Tensor, columns: Tensor | None) -> None:
    """Copy the slice (rows, columns) of a convolution and the rows of its batch norm; `columns=None` takes all."""
    weight = source.conv.weight.detach()[rows]
    with torch.no_grad():
        target.conv.weight.copy_(weight if columns is None else weight[:, columns])
        for old, new in zip(source.norm_vectors(), target.norm_vectors(), strict=True):
            new.copy_(old.detach()[rows])


def copy_linear(source: nn.Linear, target: nn.Linear, *, columns: Tensor) -> None:
    """Copy some input columns of the classifier, and its bias."""
    with torch.no_grad():
        target.weight.copy_(source.weight.detach()[:, columns])
        target.bias.copy_(source.bias.detach())


def copy_slice(source: nn.Linear, target: nn.Linear, *, rows: Tensor | None, columns: Tensor | None) -> None:
    """Copy the slice (rows, columns) of a linear layer and the rows of its bias; None takes all."""
    with torch.no_grad():
        weight, bias = source.weight.detach(), source.bias.detach()
        weight = weight if rows is None else weight[rows]
        target.weight.copy_(weight if columns is None else weight[:, columns])
        target.bias.copy_(bias if rows is None else bias[rows])


def copy_columns(source: Tensor, target: Tensor, columns: Tensor) -> None:
    """Copy the last dimension's slice of a table, a vector or a norm's scale."""
    with torch.no_grad():
        target.copy_(source.detach()[..., columns])


def sliced_table(source: Table, columns: Tensor) -> Table:
    """An embedding with some columns of `source`'s vectors; one whose vocabulary was trimmed still takes all ids."""
    if isinstance(source, TrimmedEmbedding):
        trimmed = TrimmedEmbedding(len(source.places), len(source.weight), len(columns))
        trimmed.load_state_dict({"places": source.places, "table.weight": source.weight[:, columns]})
        return trimmed
    plain = nn.Embedding(len(source.weight), len(columns))
    plain.load_state_dict({"weight": source.weight[:, columns]})
    return plain


def kept_channels(made_by: Iterable[Tensor], read_by: Iterable[Tensor], num_kept: int, *, what: str) -> Tensor:
    """The strongest channels by everything that makes or reads them. Raises RecipeInfeasible where there are fewer than asked for."""
    importance_C = channel_importance(made_by, read_by)
    if len(importance_C) < num_kept:
        raise infeasible(f"{what} wants {num_kept} channels, but the teacher's has {len(importance_C)}.")
    return strongest(importance_C, num_kept)


def with_vocabulary(reads: Reads, vocab_size: int) -> Reads:
    """What a model reads, with as many rows as its embedding has now; 0 leaves images what they are."""
    return replace(reads, vocab_size=vocab_size)


def parsed(section: type[S], params: Mapping[str, Scalar], *, family: str) -> S:
    """A family's numbers out of a recipe's shrink step. Raises RecipeInfeasible."""
    try:
        return parse_params(section, params, where=f"model family {family}")
    except ConfigError as error:
        raise infeasible(error.message) from error


def size_of(params: Mapping[str, Json], *, family: str) -> Size:
    """Width and depth as a checked value. Raises OutOfRange or UnknownKey."""
    return parse_params(Size, params, where=f"model family {family}")


def target_size(params: Mapping[str, Scalar], *, family: str) -> Size:
    """As `size_of`, for a recipe's shrink step. Raises RecipeInfeasible."""
    return parsed(Size, params, family=family)


def infeasible(reason: str) -> RecipeInfeasible:
    """The error of a student that cannot inherit from its teacher."""
    hint = "choose `shrink.width` and `shrink.depth` at or below the teacher's."
    return RecipeInfeasible(f"shrink cannot be carried out: {reason}", hint=hint, reason=reason)
