"""The step `trim_vocabulary`: an embedding keeps the rows of tokens that occur in the training split, and one more for all the others.

Ids that come in stay what the tokenizer makes of a text: the model says itself which row each of them reads, and in a served file that is one
Gather more. Texts without a trimmed token get the answers that they got before. The row of all the others starts as their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from foundry_ray.compression import steps
from foundry_ray.config import IMPORT, Section
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.protocols import Given
from foundry_ray.types import Scalar, TokenSchema

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


class TrimParams(Section):
    """Which tokens stay."""

    min_count: int = Field(1, ge=1, le=1_000_000, description="Times that a token occurs in the training split, at the least.")


@steps.register("trim_vocabulary")
class TrimVocabulary:
    """See the module's docstring."""

    kind = "trim_vocabulary"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`."""
        return steps.checked(TrimParams, params, kind=self.kind)

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """See `Compressor.apply`. Raises RecipeInfeasible where there are no tokens, no rows to count in, or nothing to trim."""
        from foundry_ray import models
        from foundry_ray.models.replaced import put

        kept_K = _kept(given, int(self.check(params)["min_count"]))
        for name in _tables(model, given):
            put(model, name, _trimmed(model.get_submodule(name), kept_K))
        if str(getattr(model, "family", "")).startswith(IMPORT):
            models.describe(model)  # now, and not after a whole training: what cannot be described cannot be stored
        return model


def _kept(given: Given, min_count: int) -> np.ndarray:
    """Ids that occur often enough in the training split, in ascending order; that of padding is one of them."""
    import numpy as np

    schema = given.schema
    if not isinstance(schema, TokenSchema):
        raise _infeasible(f"the data set has {schema.kind}, wanted tokens.", "leave `trim_vocabulary` out.")
    if given.inputs_N is None or len(given.inputs_N) == 0:
        raise _infeasible("there are no training rows to count tokens in.", "give the step the training split.")
    is_kept_V = np.bincount(np.asarray(given.inputs_N).ravel(), minlength=schema.vocab_size) >= min_count
    if schema.padding is not None:
        is_kept_V[schema.padding] = True
    kept_K: np.ndarray = np.flatnonzero(is_kept_V)
    if len(kept_K) + 1 >= schema.vocab_size:
        message = f"{len(kept_K)} of {schema.vocab_size} tokens occur {min_count} times or more, so that nothing gets smaller."
        raise _infeasible(message, "raise `trim_vocabulary.min_count`, or leave the step out.")
    return kept_K


def _tables(model: nn.Module, given: Given) -> list[str]:
    """Names of the embeddings of the vocabulary. Raises RecipeInfeasible where there are none, or another layer has their weights too."""
    from torch import nn

    assert isinstance(given.schema, TokenSchema), "`_kept` refuses anything else"
    vocab_size = given.schema.vocab_size
    wide = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding) and module.num_embeddings == vocab_size}
    tables = {name: module for name, module in wide.items() if _reads_tokens(model, module, given)}
    if not tables:
        raise _infeasible(f"{type(model).__name__} has no embedding of {vocab_size} tokens.", "leave `trim_vocabulary` out.")
    owners = [id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False)]
    for name, table in tables.items():
        if owners.count(id(table.weight)) > 1:
            raise _infeasible(f"the weights of {name} are another layer's too, which has an output for each token.", "leave `trim_vocabulary` out.")
        if type(table) is not nn.Embedding or table.max_norm is not None:
            more = "cuts rows to `max_norm`" if type(table) is nn.Embedding else f"is a {type(table).__name__}, which may do more than look rows up"
            raise _infeasible(f"{name} {more}.", "leave `trim_vocabulary` out.")
    return list(tables)


def _reads_tokens(model: nn.Module, table: nn.Module, given: Given) -> bool:
    """Whether other tokens make a table read other rows: one of as many positions as there are tokens reads the same ones."""
    import numpy as np
    import torch

    from foundry_ray.compression.rows import batches
    from foundry_ray.models.modes import evaluating

    assert isinstance(given.schema, TokenSchema), "`_kept` refuses anything else"
    read: list[torch.Tensor] = []
    handle = table.register_forward_pre_hook(lambda _table, inputs: read.append(inputs[0].clone()))
    [(inputs, _)] = batches(model, given, np.arange(1), batch_size=1)
    try:
        with torch.no_grad(), evaluating(model):
            model(inputs)
            num_calls = len(read)
            model((inputs + 1) % given.schema.vocab_size)
    finally:
        handle.remove()
    return any(not torch.equal(*both) for both in zip(read[:num_calls], read[num_calls:], strict=True))


def _trimmed(table: nn.Module, kept_K: np.ndarray) -> nn.Module:
    """The rows of an embedding that are kept, and the mean of the others."""
    import torch
    from torch import nn

    from foundry_ray.models.replaced import TrimmedEmbedding

    assert isinstance(table, nn.Embedding), "`_tables` names embeddings alone"
    old_VD = table.weight.detach()
    kept = torch.from_numpy(kept_K).to(old_VD.device)
    is_other_V = torch.ones(len(old_VD), dtype=torch.bool, device=old_VD.device)
    is_other_V[kept] = False
    padding = None if table.padding_idx is None or is_other_V[table.padding_idx] else int((kept < table.padding_idx).sum())
    made = TrimmedEmbedding(len(old_VD), len(kept) + 1, old_VD.shape[1], padding=padding).to(device=old_VD.device, dtype=old_VD.dtype)
    with torch.no_grad():
        made.places.fill_(len(kept))
        made.places[kept] = torch.arange(len(kept), dtype=made.places.dtype, device=old_VD.device)
        made.table.weight.copy_(torch.cat([old_VD[kept], old_VD[is_other_V].mean(0, keepdim=True)]))
    return made.train(table.training)


def _infeasible(reason: str, hint: str) -> RecipeInfeasible:
    return RecipeInfeasible(f"trim_vocabulary: {reason}", hint=hint, reason=reason)
