"""Commands that change what the registry says of a model: models promote, rollback, tag, sign, keygen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit, text

if TYPE_CHECKING:
    from foundry_ray.context import Context
    from foundry_ray.registry import AliasMove, Note

_Model = Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version; NAME@ALIAS means the one that the alias points at.")]
_Alias = Annotated[str, typer.Option("--alias", metavar="ALIAS", help="Which alias to move.")]
_Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the history; at most 500 characters.")]
_EXPECT_HELP = "Refuse where the alias does not point at this version now; 0: where it exists."


def models_promote(
    model: _Model,
    alias: _Alias = "champion",
    reason: _Reason = "",
    expect: Annotated[int | None, typer.Option("--expect", metavar="VERSION", min=0, help=_EXPECT_HELP)] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Point an alias at a version. `champion` takes only what passed its gates (exit 3); of two at once one wins (exit 5)."""
    from foundry_ray import registry
    from foundry_ray.context import open_context

    with open_context(store) as context:
        note = _note(context, reason)
        entry = registry.resolve(context.store, model)
        move = registry.promote(context.store, entry.name, entry.version, alias=alias, note=note, expect=expect)
    _emit_move(entry.name, alias, move, is_new=(move.by, move.at, move.reason) == (note.by, note.at, note.reason))


def models_rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered name.")],
    alias: _Alias = "champion",
    to: Annotated[int | None, typer.Option("--to", metavar="VERSION", min=1, help="An earlier version; the one before where absent.")] = None,
    reason: _Reason = "",
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Point an alias at the version before. Repeated, it goes further back; what was left is promoted again by `promote`."""
    from foundry_ray import registry
    from foundry_ray.context import open_context

    with open_context(store) as context:
        move = registry.rollback(context.store, name, alias=alias, to=to, note=_note(context, reason))
    _emit_move(name, alias, move)


def models_tag(
    model: _Model,
    pairs: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Tags to set.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="KEY", help="A tag to remove; may be repeated.")] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Set and remove tags of a version, and print all of them."""
    from foundry_ray import registry
    from foundry_ray.context import open_context

    tags = registry.parse_tags(pairs or ())
    with open_context(store) as context:
        entry = registry.resolve(context.store, model)
        found = registry.tag(context.store, entry.name, entry.version, tags, remove=remove or (), note=_note(context, ""))
    shown = ", ".join(f"{key}={value}" for key, value in found.items()) or "no tags"
    emit({"model": f"{entry.name}:{entry.version}", "tags": found}, text(f"{entry.name}:{entry.version}: {shown}"))


def models_sign(model: _Model, store: StoreOption = None, json_output: JsonOption = False) -> None:
    """Sign a registered version with FOUNDRY_SIGNING_KEY or FOUNDRY_SIGNING_KEY_FILE."""
    from foundry_ray import registry
    from foundry_ray.context import open_context

    with open_context(store) as context:
        entry = registry.resolve(context.store, model)
        is_new = registry.sign_entry(context.store, entry, note=_note(context, ""))
    what = f"{entry.name}:{entry.version}"
    emit({"model": what, "signed": is_new}, text(f"Signed {what}." if is_new else f"{what} is signed with this key already."))


def models_keygen(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write the private key, with mode 600.")],
    kind: Annotated[Literal["ed25519", "hmac"], typer.Option("--kind", help="ed25519 has a public key for those who only check.")] = "ed25519",
    json_output: JsonOption = False,
) -> None:
    """Make a key that signs models: FILE, and for ed25519 FILE.pub, whose text is FOUNDRY_VERIFY_KEY."""
    from foundry_ray import registry

    public = registry.write_key(output, kind)
    told = f"Wrote {output}; `export FOUNDRY_SIGNING_KEY_FILE={output}` signs with it."
    checks = f' `export FOUNDRY_VERIFY_KEY="$(cat {public})"` checks with {public}.' if public else ""
    emit({"private": str(output), "public": str(public) if public else None}, text(told + checks))


def add_to(models: typer.Typer) -> None:
    """Register the commands."""
    models.command("promote")(models_promote)
    models.command("rollback")(models_rollback)
    models.command("tag")(models_tag)
    models.command("sign")(models_sign)
    models.command("keygen")(models_keygen)


def _note(context: Context, reason: str) -> Note:
    from foundry_ray.registry import write_note

    return write_note(context.clock, by=context.settings.who, reason=reason)


def _emit_move(name: str, alias: str, move: AliasMove, *, is_new: bool = True) -> None:
    before = f", before it at {move.previous}" if move.previous is not None else ""
    same = "" if is_new else " It did so before: nothing was changed, and no reason noted."
    emit(move, text(f"{name}@{alias} points at version {move.version}{before} (move {move.number}, {move.by}, {move.at}).{same}"))
