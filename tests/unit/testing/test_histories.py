"""The judge of concurrent histories finds what is wrong and nothing else."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from foundry_ray.testing.histories import Operation, Span, overlaps, violations


def _op(kind: str, number: int, began_s: float, ended_s: float, *, process: int = 0, value: str | None = None) -> Operation:
    said = value if value is not None else f"v{number}" if number else None
    return Operation(process=process, kind=kind, register="a", number=number, value=said, began_s=began_s, ended_s=ended_s)  # type: ignore[arg-type]


def test_a_history_in_order_is_fine() -> None:
    assert violations([_op("read", 0, 0, 1), _op("write", 1, 2, 3), _op("read", 1, 4, 5), _op("write", 2, 6, 7), _op("read", 2, 8, 9)]) == []


def test_a_read_during_a_write_may_see_either_side() -> None:
    assert violations([_op("write", 1, 0, 10), _op("read", 0, 1, 2), _op("read", 1, 3, 4)]) == []


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([_op("write", 1, 0, 1), _op("read", 0, 2, 3)], "began after"),
        ([_op("write", 1, 0, 10), _op("read", 1, 1, 2), _op("read", 0, 3, 4)], "began after"),
        ([_op("write", 2, 0, 1), _op("write", 1, 2, 3)], "began after"),
        ([_op("write", 1, 0, 1), _op("write", 1, 0, 1, process=1)], "one number"),
        ([_op("read", 1, 0, 1)], "nobody who was answered"),
        ([_op("write", 1, 5, 6), _op("read", 1, 0, 1)], "read before it was written"),
        ([_op("write", 1, 0, 1), _op("read", 1, 2, 3, value="other")], "another value"),
    ],
)
def test_what_no_order_explains_is_named(history: list[Operation], said: str) -> None:
    assert any(said in problem for problem in violations(history))


def test_registers_are_judged_apart() -> None:
    assert violations([_op("write", 1, 0, 1), replace(_op("read", 0, 2, 3), register="b")]) == []


def test_histories_of_a_real_register_pass_and_a_stale_read_in_them_does_not() -> None:
    for seed in range(50):
        random.seed(seed)
        now, number, history = 0.0, 0, []
        for _ in range(40):
            began = now - random.random() * 3
            now += random.random()
            kind = random.choice(["read", "write"])
            number += kind == "write"
            history.append(_op(kind, number, began, now + random.random() * 3, process=len(history)))
            now += 1e-3
        assert violations(history) == []
        late = _op("read", 0, now + 100, now + 101)
        assert bool(violations([*history, late])) == (number > 0)


def test_agreement_with_a_search_over_all_orders() -> None:
    """On all small histories the rule says what trying every order says."""
    spans = [(0.0, 1.0), (0.5, 2.5), (2.0, 3.0), (1.5, 4.0)]
    for kinds in itertools.product(["write1", "write2", "read0", "read1", "read2"], repeat=3):
        writes = [kind for kind in kinds if kind.startswith("write")]
        if len(set(writes)) != len(writes) or ("write2" in writes and "write1" not in writes):
            continue
        for chosen in itertools.permutations(spans, 3):
            history = [_op(kind[:-1], int(kind[-1]), *span, process=i) for i, (kind, span) in enumerate(zip(kinds, chosen, strict=True))]
            assert (violations(history) == []) == _has_order(history), history


def _has_order(history: list[Operation]) -> bool:
    return any(_explains(order) for order in itertools.permutations(history))


def _explains(order: tuple[Operation, ...]) -> bool:
    if any(later.ended_s < earlier.began_s for earlier, later in itertools.combinations(order, 2)):
        return False
    state = 0
    for operation in order:
        if operation.kind == "write":
            if operation.number != state + 1:
                return False
            state = operation.number
        elif operation.number != state:
            return False
    return True


def _span(fence: int, began_s: float, ended_s: float, process: int = 0) -> Span:
    return Span(process=process, lease="l", fence=fence, began_s=began_s, ended_s=ended_s)


def test_two_holders_at_once_are_named() -> None:
    assert overlaps([_span(1, 0, 1), _span(2, 1, 2, 1)]) == []
    assert "holds fence 2 while" in overlaps([_span(1, 0, 2), _span(2, 1, 3, 1)])[0]
    assert "both hold fence 1" in overlaps([_span(1, 0, 1), _span(1, 2, 3, 1)])[0]
