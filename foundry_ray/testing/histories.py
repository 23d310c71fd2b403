"""Checks a recorded history of concurrent operations: was there an order, in line with real time, that explains every answer?

Every write of a numbered register carries its number (an alias' moves, a lease's fences, a journal's segments are such registers). Then
linearisability (Herlihy & Wing 1990, "Linearizability: a correctness condition for concurrent objects", section 2) needs no search: the
numbers are the order, and it is enough that no operation that ended before another one began has the later number, and that nobody read
a number before its write had begun. Times of all processes must come from one clock of one machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One answered operation on a register. `number` and `value` are what was written, or what was read (0 and None: nothing yet)."""

    process: int
    kind: Literal["write", "read"]
    register: str
    number: int
    value: str | None
    began_s: float
    ended_s: float

    def __str__(self) -> str:
        return f"process {self.process} {self.kind} {self.register}#{self.number}={self.value} [{self.began_s:.6f}, {self.ended_s:.6f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time in which a process held a lease under a fencing number: between the answer that gave it and the request that ended it."""

    process: int
    lease: str
    fence: int
    began_s: float
    ended_s: float


def violations(operations: Iterable[Operation]) -> list[str]:
    """What no order explains, in words; empty where the history of every register is linearisable."""
    by_register: dict[str, list[Operation]] = {}
    for operation in operations:
        by_register.setdefault(operation.register, []).append(operation)
    return [problem for group in by_register.values() for problem in _of_register(group)]


def overlaps(spans: Iterable[Span]) -> list[str]:
    """Pairs of holders of one lease at one time, and fences that do not grow with time; empty where there is none."""
    problems = []
    by_lease: dict[str, list[Span]] = {}
    for span in spans:
        by_lease.setdefault(span.lease, []).append(span)
    for lease, group in by_lease.items():
        ordered = sorted(group, key=lambda span: span.fence)
        for first, second in itertools.pairwise(ordered):
            if first.fence == second.fence:
                problems.append(f"{lease}: processes {first.process} and {second.process} both hold fence {first.fence}")
            elif second.began_s < first.ended_s:
                problems.append(f"{lease}: process {second.process} holds fence {second.fence} while process {first.process} holds {first.fence}")
    return problems


def _of_register(operations: Sequence[Operation]) -> list[str]:
    writes: dict[int, Operation] = {}
    problems = []
    for operation in operations:
        if operation.kind == "write":
            if operation.number in writes:
                problems.append(f"two writes have one number: {writes[operation.number]} and {operation}")
            writes[operation.number] = operation
    for operation in operations:
        if operation.kind == "read":
            problems += _of_read(operation, writes)
    return problems + _out_of_order(operations)


def _of_read(read: Operation, writes: dict[int, Operation]) -> list[str]:
    write = writes.get(read.number)
    if read.number == 0:
        return []
    if write is None:
        return [f"nobody who was answered wrote what was read: {read}"]
    if write.value != read.value:
        return [f"read another value than was written: {read}, {write}"]
    if write.began_s > read.ended_s:
        return [f"read before it was written: {read}, {write}"]
    return []


def _out_of_order(operations: Sequence[Operation]) -> list[str]:
    """Pairs where the later one (by real time) has the smaller number, or, for a write, the same."""
    problems = []
    ended = sorted(operations, key=lambda operation: operation.ended_s)
    newest: Operation | None = None  # the highest number among all that ended before the one looked at began
    index = 0
    for operation in sorted(operations, key=lambda operation: operation.began_s):
        while index < len(ended) and ended[index].ended_s < operation.began_s:
            if newest is None or ended[index].number > newest.number:
                newest = ended[index]
            index += 1
        if newest is None:
            continue
        is_late = operation.number < newest.number or (operation.kind == "write" and operation.number == newest.number and operation is not newest)
        if is_late:
            problems.append(f"{operation} began after {newest} had ended")
    return problems
