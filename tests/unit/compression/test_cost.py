"""What a model is said to compute, against torch's own counter of the kernels that it calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

from foundry_ray.compression import cost
from foundry_ray.types import ImageSchema, TokenSchema

IMAGES = ImageSchema(channels=2, height=6, width=6, dtype="uint8", classes=("no", "yes"))
TOKENS = TokenSchema(length=5, vocab_size=20, has_labels=True, classes=("no", "yes"))


class Doing(nn.Module):
    """Calls a function of a weight that no layer of torch's holds."""

    def __init__(self, act: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, images: Tensor) -> Tensor:
        return self.act(images, self.weight)


FUNCTIONS = {
    "convolution": ((4, 2, 3, 3), lambda x, w: functional.conv2d(x, w)),
    "grouped convolution": ((4, 1, 3, 3), lambda x, w: functional.conv2d(x, w, groups=2)),
    "transposed convolution": ((2, 4, 2, 2), lambda x, w: functional.conv_transpose2d(x, w, stride=2)),
    "einsum": ((6, 3), lambda x, w: torch.einsum("bchw,wd->bchd", x, w)),
    "einsum of three": ((6, 3), lambda x, w: torch.einsum("...w, wd, dv -> ...v", x, w, w.T)),
    "addmm": ((6, 3), lambda x, w: torch.addmm(torch.zeros(3), x.reshape(-1, 6), w)),
    "baddbmm": ((2, 6, 3), lambda x, w: torch.baddbmm(torch.zeros(1), x[0], w)),
    "matrix": ((6, 6), lambda x, w: x @ w @ x.transpose(-1, -2)),
    "linear by name": ((4, 6), lambda x, w: functional.linear(input=x, weight=w)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_without_a_layer_are_counted(name: str) -> None:
    shape, act = FUNCTIONS[name]
    model = Doing(act, *shape)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *IMAGES.shape))
    assert cost(model, IMAGES).num_macs == counter.get_total_flops() // 2 > 0


def test_attention_is_counted_whose_arguments_are_named() -> None:
    """Two channels of 6 queries, 6 keys and a width of 6; torch's counter does not see the kernel of a CPU."""
    model = Doing(lambda x, w: functional.scaled_dot_product_attention(query=x, key=x, value=x) * w, 1)
    assert cost(model, IMAGES).num_macs == 2 * 2 * 6 * 6 * 6


class Stepping(nn.Module):
    """Runs a cell over the tokens by hand."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(20, 4), cell

    def forward(self, ids: Tensor) -> Tensor:
        state, x = None, self.embed(ids)
        for step in range(5):
            state = self.cell(x[:, step], state)
        return state[0] if isinstance(state, tuple) else state


class Packing(nn.Module):
    """Gives a layer a packed sequence, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(20, 4), nn.LSTM(4, 8, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(ids), (ids >= 0).sum(1), batch_first=True)
        return self.layer(input=packed)[1][0][-1]


@pytest.mark.parametrize(
    ("model", "gates"),
    [(Stepping(nn.GRUCell(4, 8)), 3), (Stepping(nn.LSTMCell(4, 8)), 4), (Stepping(nn.RNNCell(4, 8)), 1), (Packing(), 4)],
    ids=["gru", "lstm", "rnn", "packed"],
)
def test_recurrence_by_hand_and_of_packed_rows_is_counted(model: nn.Module, gates: int) -> None:
    assert cost(model, TOKENS).num_macs == 5 * gates * 8 * (4 + 8)
