"""Commands that read registered models: models list, show, history, pull, verify; and predict. What changes them is `promotion`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundry_ray.cli import promotion
from foundry_ray.cli.output import JsonOption, StoreOption, emit, text

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="name@alias or name:version.")]
TagOption = Annotated[list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Only versions with this tag; several must all fit.")]
_NOT_VERIFIED = 5


def models_list(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this name.")] = None,
    tag: TagOption = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """List registered versions, with aliases and tags."""
    from foundry_ray import registry
    from foundry_ray.context import open_context
    from foundry_ray.reporting.models import models_table

    wanted = registry.parse_tags(tag or ()).items()
    with open_context(store) as context:
        names = registry.names(context.store) if name is None else (name,)
        found = [entry for one in names for entry in registry.versions(context.store, one)]
    entries = [entry for entry in found if wanted <= entry.tags.items()]
    warnings = [registry.fallen_warning(entry) for entry in entries if registry.is_fallen(entry)]
    emit(entries, lambda: models_table(entries, warnings))


def models_show(
    model: ModelArgument,
    lineage: Annotated[bool, typer.Option("--lineage", help="What it was made of: trial, recipe, teacher, data, code, libraries, seeds.")] = False,
    markdown: Annotated[bool, typer.Option("--card", help="The model card as Markdown: task, data, metrics, steps, sizes, limits, licence.")] = False,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show one version: what it is, what it was made of, what it measured."""
    from foundry_ray import registry
    from foundry_ray.context import open_context
    from foundry_ray.reporting.card import card_markdown
    from foundry_ray.reporting.models import card_document, card_view, lineage_tree

    with open_context(store) as context:
        card = registry.model_card(context.store, model)
        published = registry.published_card(context.store, card.entry) if markdown else ""
    if markdown:
        emit({"card": card_markdown(card, published)}, text(card_markdown(card, published)))
        return
    document = card.entry.lineage if lineage else card_document(card)
    emit(document, lambda: lineage_tree(card.entry, card.recipe) if lineage else card_view(card))


def models_history(
    alias: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="An alias; a name alone means its champion.")],
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show where an alias pointed: who moved it, when and why."""
    from foundry_ray import registry
    from foundry_ray.context import open_context
    from foundry_ray.reporting.models import history_table

    reference = registry.parse_alias(alias)
    with open_context(store) as context:
        moves = registry.history(context.store, reference.name, reference.alias)
    emit(moves, lambda: history_table(moves))


def models_pull(
    model: ModelArgument,
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where to put the files.")] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Copy a version's files into a folder, verified, with a MODEL_CARD.md; model.onnx loads with onnxruntime alone."""
    from foundry_ray import registry
    from foundry_ray.context import open_context
    from foundry_ray.reporting.card import write_card

    with open_context(store) as context:
        card = registry.model_card(context.store, model)
        entry = card.entry
        folder = directory or Path(f"{entry.name}-{entry.version}")
        files = {**registry.pull(context.store, entry, folder), registry.CARD_FILE: folder / registry.CARD_FILE}
    write_card(card, files[registry.CARD_FILE])
    emit(
        {"model": f"{entry.name}:{entry.version}", "files": {name: str(path) for name, path in files.items()}},
        text(f"Pulled {entry.name}:{entry.version} into {folder}; MODEL_CARD.md says how to serve it."),
    )


def models_verify(model: ModelArgument, store: StoreOption = None, json_output: JsonOption = False) -> None:
    """Check a version: signature, manifest, every file, report, lineage, and that it loads. Exit 5 where anything fails."""
    from foundry_ray import registry
    from foundry_ray.context import open_context
    from foundry_ray.inference import open_shipped
    from foundry_ray.reporting.lists import findings_table

    with open_context(store) as context:
        findings = registry.verify(context.store, model, load=open_shipped)
    emit(findings, lambda: findings_table(findings))
    if not all(finding.is_ok or finding.is_optional for finding in findings):
        raise typer.Exit(_NOT_VERIFIED)


def predict(
    model: ModelArgument,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="Images: one, a folder, or a .npy of uint8 (N, C, H, W). Texts: .txt, .csv, .jsonl, or a .npy of ids (N, T)."
        ),
    ],
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Batch inference from the store, without a server."""
    from foundry_ray.context import open_context
    from foundry_ray.endpoints import predict
    from foundry_ray.reporting.lists import predictions_table

    with open_context(store) as context:
        answers = predict(model, source, context=context)
    emit(answers, lambda: predictions_table(answers))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    models = typer.Typer(help="Registered models.", no_args_is_help=True)
    for name, function in (
        ("list", models_list),
        ("show", models_show),
        ("history", models_history),
        ("pull", models_pull),
        ("verify", models_verify),
    ):
        models.command(name)(function)
    promotion.add_to(models)
    app.add_typer(models, name="models")
    app.command("predict")(predict)
