"""How channels of recurrent layers and layer norms are cut: what torch-pruning lacks (GRU) or does wrongly (LSTM, the order in a layer norm).

A recurrent layer is traced as one operation: its own graph, step by step and gate by gate, says nothing about which channels belong together.
Legend: H hidden units, D directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch_pruning import BasePruningFunc

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
NORMS = (nn.LayerNorm, nn.RMSNorm)


class RecurrentCuts(BasePruningFunc):  # type: ignore[misc]  # the package has no types
    """Cuts hidden units of all layers and directions alike: torch gives them one number. Outputs are D * H wide, the directions side by side."""

    def prune_out_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.Module:
        """Take hidden units out; `idxs` are outputs, and name a unit once per direction."""
        hidden, gone = layer.hidden_size, set(idxs)
        kept = [unit for unit in range(hidden) if unit not in gone]
        num_gates = layer.get_parameter("weight_hh_l0").shape[0] // hidden
        rows = [gate * hidden + unit for gate in range(num_gates) for unit in kept]
        columns = [direction * hidden + unit for direction in range(_directions(layer)) for unit in kept]
        for name, tensor in list(layer.named_parameters()):
            cut = _taken(tensor, rows, 0)
            if name.startswith("weight_hh"):
                cut = _taken(cut, kept, 1)
            elif name.startswith("weight_ih") and not name.startswith("weight_ih_l0"):
                cut = _taken(cut, columns, 1)
            setattr(layer, name, nn.Parameter(cut, requires_grad=tensor.requires_grad))
        layer.hidden_size = len(kept)
        layer.flatten_parameters()
        return layer

    def prune_in_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.Module:
        """Take inputs out of the first layer."""
        gone = set(idxs)
        kept = [channel for channel in range(layer.input_size) if channel not in gone]
        for name, tensor in list(layer.named_parameters()):
            if name in ("weight_ih_l0", "weight_ih_l0_reverse"):
                setattr(layer, name, nn.Parameter(_taken(tensor, kept, 1), requires_grad=tensor.requires_grad))
        layer.input_size = len(kept)
        layer.flatten_parameters()
        return layer

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        """D * H."""
        return int(layer.hidden_size) * _directions(layer)

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        """Of the first layer."""
        return int(layer.input_size)

    def get_out_channel_groups(self, layer: nn.RNNBase) -> int:
        """Directions, of which each loses the same units."""
        return _directions(layer)


class NormCuts(BasePruningFunc):  # type: ignore[misc]  # the package has no types
    """Cuts the last dimension of a layer norm or RMS norm, and keeps the others' order."""

    def prune_out_channels(self, layer: nn.LayerNorm, idxs: Sequence[int]) -> nn.Module:
        """Take channels out."""
        gone = set(idxs)
        kept = [channel for channel in range(layer.normalized_shape[-1]) if channel not in gone]
        for name, tensor in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, nn.Parameter(_taken(tensor, kept, -1), requires_grad=tensor.requires_grad))
        layer.normalized_shape = (*layer.normalized_shape[:-1], len(kept))
        return layer

    prune_in_channels = prune_out_channels  # also says that inputs and outputs are the same channels

    def get_out_channels(self, layer: nn.LayerNorm) -> int:
        """Of the last dimension."""
        return int(layer.normalized_shape[-1])

    get_in_channels = get_out_channels


def customized(model: nn.Module) -> dict[type[nn.Module], BasePruningFunc]:
    """Who cuts the layers of `model` that torch-pruning is not left to cut, by their class."""
    recurrent, norms = RecurrentCuts(), NormCuts()
    found: dict[type[nn.Module], BasePruningFunc] = {}
    for module in model.modules():
        if isinstance(module, RECURRENT):
            found[type(module)] = recurrent
        elif isinstance(module, NORMS):
            found[type(module)] = norms
    return found


@contextmanager
def opaque_recurrence(model: nn.Module) -> Iterator[None]:
    """Within, recurrent layers give zeros of the right shape, made by one operation of the autograd graph."""
    layers = [module for module in model.modules() if isinstance(module, RECURRENT)]
    for layer in layers:
        setattr(layer, "forward", partial(_traced, layer))  # noqa: B010  mypy knows forward as a method
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _traced(layer: nn.RNNBase, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    if isinstance(inputs, PackedSequence):
        raise NotImplementedError("a recurrent layer reads a packed sequence, whose channels cannot be followed")
    if layer.proj_size:
        raise NotImplementedError(f"a recurrent layer has a projection of {layer.proj_size} (proj_size), whose units cannot be cut")
    wide = _directions(layer) * layer.hidden_size
    batch = inputs.shape[:-1][0 if layer.batch_first else 1 : 1 if layer.batch_first else 2] if inputs.dim() == 3 else ()
    last_shape = (_directions(layer) * layer.num_layers, *batch, layer.hidden_size)
    outputs, last, cell = _Opaque.apply(  # type: ignore[no-untyped-call]
        inputs, layer.weight_hh_l0, (*inputs.shape[:-1], wide), last_shape
    )
    return outputs, ((last, cell) if isinstance(layer, nn.LSTM) else last)


class _Opaque(torch.autograd.Function):
    """One node of the graph. `weight` is there so that there is a gradient to follow where the inputs have none."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, shape: tuple[int, ...], last_shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        return weight.new_zeros(shape), weight.new_zeros(last_shape), weight.new_zeros(last_shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("the graph is only looked at")


def _directions(layer: nn.RNNBase) -> int:
    return 2 if layer.bidirectional else 1


def _taken(tensor: Tensor, kept: Sequence[int], dim: int) -> Tensor:
    return tensor.detach().index_select(dim, torch.tensor(kept, device=tensor.device))
