"""Carrying out a prune step: layers first, then heads and channels in slices, each measured anew; checked by a forward pass.

What a model cannot lose is found by trying: where the whole cut leaves a model that does not answer, each coupling is cut alone on a copy, and
those that break the model are left whole.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from foundry_ray.compression.following import answer, answer_unread, is_comparable, is_equal
from foundry_ray.compression.groups import Coupling, Couplings
from foundry_ray.compression.importance import importances
from foundry_ray.compression.layer_removal import leave_out
from foundry_ray.compression.prune_params import PruneParams
from foundry_ray.compression.prune_plan import heads_left, slice_counts, weakest
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.models.slim_attention import with_slim_attention
from foundry_ray.protocols import Given
from foundry_ray.types import Schema

_HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
_HEAD_WIDTHS = ("all_head_size", "inner_dim", "inner_size", "embed_dim", "attention_dim", "d_model", "dim")


class _Broken(Exception):
    """A model that was cut does not answer as it has to; says why."""


def cut(model: nn.Module, wanted: PruneParams, given: Given) -> nn.Module:
    """A copy of `model` without its weakest layers, heads and channels, which gives outputs of the same shape.

    Raises:
        RecipeInfeasible: Nothing can be taken out, the graph cannot be followed, or the criterion lacks what it needs.
    """
    start = copy.deepcopy(model)
    if wanted.ratio or wanted.heads_ratio:
        start = with_slim_attention(start)
    if wanted.layers_ratio:
        leave_out(start, wanted.layers_ratio, given, criterion=wanted.criterion)
    expected = _expected(model, given)
    kept: dict[str, str] = {}
    try:
        pruned = _sliced(copy.deepcopy(start), wanted, given, kept, expected)
    except _Broken as first:
        kept = breaking(start, given)
        if not kept:
            raise _infeasible(str(first)) from first
        try:
            pruned = _sliced(copy.deepcopy(start), wanted, given, kept, expected)
        except _Broken as second:
            raise _infeasible(str(second)) from second
    return pruned.train(model.training)


def breaking(model: nn.Module, given: Given) -> dict[str, str]:
    """Couplings that leave a model which does not answer even where they alone lose a little: why, by name."""
    found: dict[str, str] = {}
    expected = _expected(model, given)
    for coupling in Couplings(copy.deepcopy(model), given.schema).found:
        if coupling.kept_because or coupling.num_units < 2:
            continue
        clone = copy.deepcopy(model)
        couplings = Couplings(clone, given.schema)
        [same] = [one for one in couplings.found if one.name == coupling.name]
        try:
            _take(clone, couplings, [(same, [0])], given)
            _check(clone, given, expected)
        except _Broken as error:
            found[coupling.name] = str(error)
    return found


def cut_one(model: nn.Module, name: str, units: Sequence[int], given: Given) -> None:
    """Take these units out of one coupling of `model`, named as `Couplings` has it. Raises RecipeInfeasible where it does not answer then."""
    expected = _expected(model, given)
    couplings = Couplings(model, given.schema)
    [coupling] = [one for one in couplings.found if one.name == name]
    try:
        _take(model, couplings, [(coupling, units)], given)
        _check(model, given, expected)
    except _Broken as error:
        raise _infeasible(str(error)) from error


def _sliced(model: nn.Module, wanted: PruneParams, given: Given, kept: Mapping[str, str], expected: Tensor) -> nn.Module:
    origin: dict[str, int] = {}
    for number in range(1, wanted.iterations + 1):
        couplings = Couplings(model, given.schema, kept=kept)
        for coupling in couplings.found:
            origin.setdefault(coupling.name, coupling.num_units)
        if number == 1:
            _check_able(model, couplings.found, wanted)
        _take(model, couplings, list(_plan(couplings.found, model, wanted, given, origin, number / wanted.iterations)), given)
        _check(model, given, expected)
    return model


def _plan(
    found: Sequence[Coupling], model: nn.Module, wanted: PruneParams, given: Given, origin: Mapping[str, int], progress: float
) -> Iterator[tuple[Coupling, list[int]]]:
    """What goes in one slice. All importances are taken before anything is cut."""
    for is_heads, ratio in ((False, wanted.ratio), (True, wanted.heads_ratio)):
        able = [coupling for coupling in found if coupling.is_heads == is_heads and not coupling.kept_because]
        if not ratio or not able:
            continue
        measured = zip(able, importances(wanted.criterion, able, model, given), strict=True)
        known = {coupling.name: (coupling, importance_U) for coupling, importance_U in measured if importance_U is not None}
        values = {name: importance_U for name, (_, importance_U) in known.items()}
        if is_heads:
            counts = heads_left(values, origin, ratio * progress, scope=wanted.scope)
        else:
            multiples = {name: coupling.multiple(wanted.round_to) for name, (coupling, _) in known.items()}
            counts = slice_counts(values, origin, ratio * progress, scope=wanted.scope, multiples=multiples)
        for name, (coupling, importance_U) in known.items():
            gone = weakest(importance_U, counts[name])
            if gone:
                yield coupling, gone


def _take(model: nn.Module, couplings: Couplings, cuts: Sequence[tuple[Coupling, Sequence[int]]], given: Given) -> None:
    """Cut, and see that the right channels went, as far as that can be compared. Raises _Broken."""
    compared = [(coupling, units) for coupling, units in cuts if is_comparable(coupling)]
    expected = answer_unread(model, compared, given)
    _cut_all(model, couplings, compared, given.schema)
    if not is_equal(_answer_of_cut(model, given), expected):
        raise _Broken("channels are read where torch-pruning does not see it, so that others would go than were meant")
    _cut_all(model, couplings, [(coupling, units) for coupling, units in cuts if not is_comparable(coupling)], given.schema)


def _cut_all(model: nn.Module, couplings: Couplings, cuts: Sequence[tuple[Coupling, Sequence[int]]], schema: Schema) -> None:
    for coupling, units in cuts:
        couplings.cut(coupling, units)
        if coupling.is_heads:
            _settle_heads(model, coupling, coupling.num_units - len(units), schema)


def _settle_heads(model: nn.Module, coupling: Coupling, num_left: int, schema: Schema) -> None:
    """Correct the numbers that an attention remembers of its heads, until its channels are split into as many heads as are left.

    Numbers that are not wrong are left alone: a module that keeps the width of a head needs no other.
    """
    makers = [member.name.rpartition(".")[0] for member in coupling.members if member.role == "makes"]
    parents = [model.get_submodule(name) for name in dict.fromkeys(makers)]
    old, head = coupling.num_units, coupling.width // coupling.num_units
    told = [(parent, name, num_left) for parent in parents for name in _HEAD_COUNTS if vars(parent).get(name) == old]
    wide = [(parent, name, num_left * head) for parent in parents for name in _HEAD_WIDTHS if vars(parent).get(name) == coupling.width]
    for changes in ([*told, *wide], told):
        before = [getattr(parent, name) for parent, name, _ in changes]
        for parent, name, value in changes:
            setattr(parent, name, value)
        if _has_heads(model, coupling.name, num_left, schema):
            return
        for (parent, name, _), value in zip(changes, before, strict=True):
            setattr(parent, name, value)
    raise _Broken(f"the heads that {coupling.name} reads cannot be counted anew")


def _has_heads(model: nn.Module, name: str, num_heads: int, schema: Schema) -> bool:
    try:
        found = {coupling.name: coupling for coupling in Couplings(model, schema).found}
    except RecipeInfeasible:
        return False
    return num_heads == 1 or (name in found and found[name].is_heads and found[name].num_units == num_heads)


def _expected(model: nn.Module, given: Given) -> Tensor:
    """What the model gives while it is whole. Raises RecipeInfeasible where it does not run even then."""
    try:
        return answer(model, given)
    except Exception as error:  # the model's own code, which may raise anything
        told = " ".join(str(error).split()) or type(error).__name__
        raise _infeasible(f"{type(model).__name__} does not run on such inputs: {told}") from error


def _check(model: nn.Module, given: Given, expected: Tensor) -> None:
    """See that a cut model answers: in the same shape, and in numbers where it did so before. Raises _Broken."""
    found = _answer_of_cut(model, given)
    if found.shape != expected.shape:
        raise _Broken(f"{type(model).__name__} gives {tuple(found.shape)} once channels are gone, wanted {tuple(expected.shape)}")
    if expected.isfinite().all() and not found.isfinite().all():
        raise _Broken(f"{type(model).__name__} gives numbers that are not finite once channels are gone")


def _answer_of_cut(model: nn.Module, given: Given) -> Tensor:
    try:
        return answer(model, given)
    except Exception as error:  # the model's own code, which may raise anything where its widths are not what it was written for
        told = " ".join(str(error).split()) or type(error).__name__
        raise _Broken(f"{type(model).__name__} does not run any more once channels are gone: {told}") from error


def _check_able(model: nn.Module, found: Sequence[Coupling], wanted: PruneParams) -> None:
    """Raises RecipeInfeasible where a ratio asks for what this model cannot lose, whatever the ratio is."""
    for name, ratio, is_heads in (("ratio", wanted.ratio, False), ("heads_ratio", wanted.heads_ratio, True)):
        such = [coupling for coupling in found if coupling.is_heads == is_heads]
        able = [coupling for coupling in such if not coupling.kept_because]
        if not ratio or any(coupling.num_units > coupling.multiple(wanted.round_to) for coupling in able):
            continue
        what = "attention heads" if is_heads else "channels"
        reasons = [f"{coupling.name}: {coupling.kept_because}" for coupling in such if coupling.kept_because]
        if able:
            reasons.append("the others have one head" if is_heads else f"the others have {wanted.round_to} channels or fewer")
        why = "; ".join(reasons) or f"it has no {what} that its layers make for each other"
        raise _infeasible(f"{name} is {ratio:g}, but no {what} of {type(model).__name__} can be taken out: {why}")


def _infeasible(reason: str) -> RecipeInfeasible:
    hint = "`foundry analyze` tells what can be cut; raise the ratio, lower `round_to`, or leave `prune` out."
    return RecipeInfeasible(f"prune: {reason}.", hint=hint, reason=reason)
