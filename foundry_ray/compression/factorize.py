"""The step `factorize`: a table or a matrix as the product of two that are smaller together, by its largest singular values.

An embedding of V tokens as V x R times R x D is ALBERT's (arXiv 1909.11942, section 3.1); a linear layer of O x I becomes O x R times R x I.
Nothing of rank R is nearer to the original (Eckart and Young, 1936): the squared error is the sum of the squares of the singular values left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from foundry_ray.compression import steps
from foundry_ray.config import IMPORT, Section
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given
from foundry_ray.types import Scalar

if TYPE_CHECKING:
    from torch import Tensor, nn

_MULTIPLE = 8


class FactorizeParams(Section):
    """How much of the rank stays. A layer that would not get smaller stays as it is, and so does the classifier."""

    embedding_ratio: float = Field(1.0, gt=0, le=1, description="Rank of an embedding as a share of its width; 1 leaves embeddings whole.")
    linear_ratio: float = Field(
        1.0, gt=0, le=1, description="Rank of a linear layer as a share of its smaller side; 1 leaves linear layers whole. Multiples of 8 from 8 on."
    )


@steps.register("factorize")
class Factorize:
    """See the module's docstring."""

    kind = "factorize"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`."""
        return steps.checked(FactorizeParams, params, kind=self.kind)

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """See `Compressor.apply`. Raises RecipeInfeasible where no layer gets smaller."""
        from foundry_ray import models
        from foundry_ray.models.replaced import put

        checked = FactorizeParams.model_validate(self.check(params))
        if checked.embedding_ratio == checked.linear_ratio == 1:
            return model
        made = dict(_factorized(model, checked))
        if not made:
            reason = "no embedding and no linear layer would get smaller."
            raise RecipeInfeasible(f"factorize: {reason}", hint="lower its ratios, or leave it out.", reason=reason)
        for name, module in made.items():
            put(model, name, module)
        if str(getattr(model, "family", "")).startswith(IMPORT):
            models.describe(model)  # now, and not after a whole training: what cannot be described cannot be stored
        return model


def truncated(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of rank R: (O, R) and (R, I), each with the root of the singular values."""
    import torch

    u_OK, s_K, v_KI = torch.linalg.svd(weight_OI.detach().float(), full_matrices=False)
    root_R = s_K[:rank].sqrt()
    return u_OK[:, :rank] * root_R, root_R[:, None] * v_KI[:rank]


def _factorized(model: nn.Module, params: FactorizeParams) -> Iterator[tuple[str, nn.Module]]:
    """Name and new layer of each that gets smaller; a tensor that layers share stays whole."""
    from torch import nn

    owners = [id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False)]
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    for name, module in model.named_modules():
        is_table = type(module) is nn.Embedding
        if not is_table and name not in linear[:-1]:
            continue
        weight = module.weight
        assert not isinstance(weight, nn.Module), "it is a tensor"
        rank = _rank(weight, params.embedding_ratio if is_table else params.linear_ratio)
        if rank and is_table and module.max_norm is not None:
            reason = f"{name} cuts its rows to `max_norm`, which a product of two tables does not."
            raise RecipeInfeasible(f"factorize: {reason}", hint="build it without `max_norm`, or leave `embedding_ratio` at 1.", reason=reason)
        if rank and owners.count(id(weight)) == 1:
            yield name, (_table(module, rank) if is_table else _linear(module, rank)).train(module.training)


def _rank(weight: Tensor, ratio: float) -> int:
    """The rank to keep; 0 where that is not smaller."""
    rows, columns = weight.shape
    wanted = ratio * min(rows, columns)
    rank = int(wanted / _MULTIPLE + 0.5) * _MULTIPLE if wanted >= _MULTIPLE else max(1, round(wanted))
    return rank if ratio < 1 and rank * (rows + columns) < rows * columns else 0


def _table(module: nn.Module, rank: int) -> nn.Module:
    import torch
    from torch import nn

    from foundry_ray.models.replaced import LowRankEmbedding

    assert isinstance(module, nn.Embedding), "chosen by its type"
    left_VR, right_RD = truncated(module.weight, rank)
    made = LowRankEmbedding(len(left_VR), rank, right_RD.shape[1], padding=module.padding_idx)
    made = made.to(device=module.weight.device, dtype=module.weight.dtype)
    with torch.no_grad():
        made.table.weight.copy_(left_VR)
        made.project.weight.copy_(right_RD.T)
    return made


def _linear(module: nn.Module, rank: int) -> nn.Module:
    import torch
    from torch import nn

    from foundry_ray.models.replaced import LowRankLinear

    assert isinstance(module, nn.Linear), "chosen by its type"
    left_OR, right_RI = truncated(module.weight, rank)
    has_bias = module.bias is not None
    made = LowRankLinear(module.in_features, rank, len(left_OR), bias=has_bias).to(device=module.weight.device, dtype=module.weight.dtype)
    with torch.no_grad():
        made.first.weight.copy_(right_RI)
        made.second.weight.copy_(left_OR)
        if has_bias:
            made.second.bias.copy_(module.bias)
    return made
