"""How many products of two numbers one call of a torch function computes: multiply-accumulates, by the function's name.

Functions and not layers are counted, so that what a model multiplies without a layer of torch's own is counted too. Element-wise products are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Call(NamedTuple):
    """A function's arguments and what it gave."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Any

    def tensor(self, place: int, name: str) -> Tensor:
        """An argument, however it was passed."""
        found: Tensor = self.args[place] if place < len(self.args) else self.kwargs[name]
        return found


def count(function: str, call: Call) -> int:
    """Products of a call; 0 for functions that multiply no matrices."""
    rule = _RULES.get(function)
    return 0 if rule is None else rule(call)


def _linear(call: Call) -> int:
    return call.tensor(0, "input").numel() * call.tensor(1, "weight").shape[0]


def _matmul(call: Call) -> int:
    return int(call.result.numel() * call.tensor(0, "input").shape[-1])


def _addmm(call: Call) -> int:
    """What is added to the product comes first."""
    return int(call.result.numel() * call.tensor(1, "mat1" if "mat1" in call.kwargs else "batch1").shape[-1])


def _convolution(call: Call) -> int:
    """One per output element and element of the filter that makes it."""
    return int(call.result.numel() * math.prod(call.tensor(1, "weight").shape[1:]))


def _transposed(call: Call) -> int:
    """One per input element and element of the filter that spreads it."""
    return call.tensor(0, "input").numel() * math.prod(call.tensor(1, "weight").shape[1:])


def _attention(call: Call) -> int:
    """q k^T, and its softmax times v; query (..., T, d), key (..., S, d)."""
    num_keys = call.tensor(1, "key").shape[-2]
    return int((call.tensor(0, "query").numel() + call.result.numel()) * num_keys)


def _multi_head(call: Call) -> int:
    """torch's own attention, which computes in one function: four projections to the width E of query (T, B, E), and the products."""
    query, key, value = call.tensor(0, "query"), call.tensor(1, "key"), call.tensor(2, "value")
    return query.shape[-1] * (2 * query.numel() + key.numel() + value.numel()) + 2 * query.numel() * key.shape[0]


def _recurrent(call: Call) -> int:
    """One per step and weight: the weights are the matrices in a list, the steps are those of the first argument."""
    weights = [item for value in call.args if isinstance(value, (list, tuple)) for item in value if item.dim() == 2]
    return _per_step(call, weights)


def _cell(call: Call) -> int:
    return _per_step(call, call.args[2:4])


def _per_step(call: Call, weights: Sequence[Tensor]) -> int:
    inputs: Tensor = call.args[0]
    return inputs.numel() // inputs.shape[-1] * sum(weight.numel() for weight in weights)


def _einsum(call: Call) -> int:
    """Pair by pair from the left: one per combination of all indices of a pair."""
    equation, *operands = call.args
    operands = list(operands[0]) if isinstance(operands[0], (list, tuple)) else operands
    inputs, _, output = equation.replace(" ", "").replace("...", ".").partition("->")
    terms = inputs.split(",")
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, size in _sizes(term, operand.shape):
            sizes[letter] = max(size, sizes.get(letter, 1))
    total, left = 0, set(terms[0])
    for number, term in enumerate(terms[1:], 2):
        both = left | set(term)
        total += math.prod(sizes[letter] for letter in both)
        left = both & set(output).union(*terms[number:]) if output else both
    return total


def _sizes(term: str, shape: Sequence[int]) -> list[tuple[str, int]]:
    """The size of each index; all that an ellipsis, written as a point, stands for are one."""
    before, has_more, after = term.partition(".")
    found = list(zip(before, shape, strict=False)) + list(zip(after, shape[len(shape) - len(after) :], strict=True))
    return [*found, (".", math.prod(shape[len(before) : len(shape) - len(after)]))] if has_more else found


_RULES: dict[str, Callable[[Call], int]] = {
    "linear": _linear,
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm", "mv"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
    "einsum": _einsum,
}
