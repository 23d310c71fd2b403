"""Relations between parameters, written as `"distil_alpha + label_smoothing <= 1.0"`: parse them, and say whether parameters keep them.

A relation is two sides of arithmetic and one comparison. It is read as a Python expression whose every node must be on a short list, and it is
computed by walking that tree: nothing in it is ever run as code.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from foundry_ray.errors import SearchSpaceError, UnknownKey
from foundry_ray.types import Param, Scalar, SearchSpace

_MAX_CHARS = 400
"""Longer than any relation that a person reads, and short enough that no nesting in it exhausts the stack."""
_HINT = 'write it as "width * depth <= 64": numbers, parameters, + - * /, min(a, b), max(a, b), and one of <= >= < > ==.'

_ARITHMETIC: Mapping[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_CALLS: Mapping[str, Callable[..., float]] = {"min": min, "max": max}


def _is_close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12)


_COMPARISONS: Mapping[type[ast.AST], Callable[[float, float], bool]] = {
    ast.LtE: lambda left, right: left <= right or _is_close(left, right),
    ast.GtE: lambda left, right: left >= right or _is_close(left, right),
    ast.Lt: lambda left, right: left < right and not _is_close(left, right),
    ast.Gt: lambda left, right: left > right and not _is_close(left, right),
    ast.Eq: _is_close,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A comparison that the parameters of every trial keep.

    Attributes:
        text: As written, with single spaces.
        names: The parameters that it compares.
        tree: Of nodes that `parse` let pass.
    """

    text: str
    names: frozenset[str]
    tree: ast.Compare = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.text

    def holds(self, params: Mapping[str, Scalar]) -> bool:
        """Whether these parameters keep it; where one that it names does not exist, there is nothing to compare, and it holds.

        Sides that differ by 1e-9 of their size are equal: 0.1 + 0.2 keeps `<= 0.3`. What divides by zero holds nowhere.
        """
        if not self.names <= params.keys():
            return True
        try:
            return _COMPARISONS[type(self.tree.ops[0])](_number(self.tree.left, params), _number(self.tree.comparators[0], params))
        except (ZeroDivisionError, OverflowError):
            return False


def parse(text: str, *, where: str, params: Sequence[Param]) -> Relation:
    """Read one relation.

    Args:
        where: Names the file in an error.
        params: All parameters of the space.

    Raises:
        SearchSpaceError: It is no comparison of two sides of arithmetic, or one of its parameters is no number.
        UnknownKey: It names something that is no parameter of this space; the nearest one is named.
    """
    source = " ".join(text.split())
    tree = _tree(source, where=where)
    names = frozenset(name for side in (tree.left, *tree.comparators) for name in _names(side, source, where=where))
    if not names:
        raise _refused(source, "compares no parameter", where=where)
    by_name = {param.name: param for param in params}
    for name in sorted(names):
        _check_number(name, by_name, source, where=where)
    return Relation(text=source, names=names, tree=tree)


def of(space: SearchSpace) -> tuple[Relation, ...]:
    """The relations of a space that was checked when it was read."""
    return tuple(parse(text, where="search space", params=space.params) for text in space.relations)


def _tree(source: str, *, where: str) -> ast.Compare:
    if len(source) > _MAX_CHARS:
        raise _refused(f"{source[:40]}...", f"has {len(source)} characters, wanted at most {_MAX_CHARS}", where=where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(source, "cannot be read", where=where) from error
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1 or type(tree.ops[0]) not in _COMPARISONS:
        raise _refused(source, "is not one comparison by <=, >=, <, > or ==", where=where)
    return tree


def _names(node: ast.expr, source: str, *, where: str) -> list[str]:
    """The parameters at and below a node. Raises SearchSpaceError at one that `_number` cannot compute."""
    if isinstance(node, ast.Constant) and _is_finite_number(node.value):
        return []
    if _dotted(node):
        return [_dotted(node)]
    operands = _operands(node)
    if not operands:
        raise _refused(source, f"holds `{ast.unparse(node)}`, which is no arithmetic", where=where)
    return [name for one in operands for name in _names(one, source, where=where)]


def _is_finite_number(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _dotted(node: ast.expr) -> str:
    """`width`, or `step.name`; empty where the node is no name."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def _operands(node: ast.expr) -> Sequence[ast.expr]:
    """What an operation computes with; nothing where it is none of ours."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return (node.left, node.right)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _ARITHMETIC:
        return (node.operand,)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS and not node.keywords and len(node.args) > 1:
        return node.args
    return ()


def _number(node: ast.expr, params: Mapping[str, Scalar]) -> float:
    if isinstance(node, ast.Constant):
        return float(cast(float, node.value))
    if _dotted(node):
        return float(params[_dotted(node)])
    numbers = [_number(one, params) for one in _operands(node)]
    if isinstance(node, (ast.BinOp, ast.UnaryOp)):
        return _ARITHMETIC[type(node.op)](*numbers)
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return _CALLS[node.func.id](*numbers)


def _check_number(name: str, by_name: Mapping[str, Param], source: str, *, where: str) -> None:
    param = by_name.get(name)
    if param is None:
        near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.3)
        hint = f"did you mean `{near[0]}`?" if near else f"parameters here: {', '.join(by_name)}."
        message = f"{where}: relation {source!r} names {name}, which is no parameter of this space."
        raise UnknownKey(message, hint=hint, key=name, nearest=near[0] if near else None)
    others = [choice for choice in param.choices if type(choice) not in (int, float)]
    if others:
        message = f"{where}: relation {source!r} computes with {name}, which can be {others[0]!r}, wanted numbers."
        raise SearchSpaceError(message, hint="let parameters exist beside such a value with `when`, or name it in no relation.", param=name)


def _refused(source: str, why: str, *, where: str) -> SearchSpaceError:
    return SearchSpaceError(f"{where}: relation {source!r} {why}, wanted arithmetic on both sides of a comparison.", hint=_HINT, param=source)
