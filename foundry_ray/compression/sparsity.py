"""What is told of a model with zeros among its weights: how many there are, and what they are not good for."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from foundry_ray.types import CompressionRecipe

if TYPE_CHECKING:
    from torch import nn


def sparsity_notes(model: nn.Module, recipe: CompressionRecipe, onnx: bytes) -> tuple[str, ...]:
    """Sentences for the artifact; none where the recipe asks for no zeros.

    Args:
        model: The trained student.
        recipe: What it was made by, checked.
        onnx: The file that is served of it.
    """
    step = recipe.step("sparsify")
    if step is None:
        return ()
    from foundry_ray.compression.sparsify import SparsifyParams, sparse_weights

    params = SparsifyParams.model_validate(step.params)
    weights = sparse_weights(model, params)
    zeros, all_zeros = (sum(int((tensor == 0).sum()) for tensor in some) for some in (weights.values(), model.parameters()))
    num, num_all = (sum(tensor.numel() for tensor in some) for some in (weights.values(), model.parameters()))
    notes = [
        f"{zeros / num:.1%} of the weights of {len(weights)} layers are zero ({params.pattern}), {all_zeros / num_all:.1%} of all",
        f"zeros make the file no smaller ({len(onnx)} bytes; {len(gzip.compress(onnx, mtime=0))} with gzip) and the runtime no faster",
    ]
    if params.pattern == "2:4":
        notes.append("2:4 is faster in the sparse kernels of a GPU alone; onnxruntime and OpenVINO on a CPU have none")
    return tuple(notes)
