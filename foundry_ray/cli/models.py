"""Commands on registered models: models, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundry_ray.cli.output import JsonOption, StoreOption, emit, text

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="name@alias or name:version.")]


def models_list(store: StoreOption = None, json_output: JsonOption = False) -> None:
    """List all registered versions."""
    from foundry_ray import registry
    from foundry_ray.context import open_context
    from foundry_ray.reporting.lists import models_table

    with open_context(store) as context:
        entries = [entry for name in registry.names(context.store) for entry in registry.versions(context.store, name)]
    emit(entries, lambda: models_table(entries))


def models_show(model: ModelArgument, store: StoreOption = None, json_output: JsonOption = False) -> None:
    """Show one version: what it is, what it was made of, what it measured."""
    from foundry_ray import registry
    from foundry_ray.context import open_context
    from foundry_ray.reporting.lists import model_card

    with open_context(store) as context:
        entry = registry.resolve(context.store, model)
    emit(entry, lambda: model_card(entry))


def models_pull(
    model: ModelArgument,
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where to put the files.")] = None,
    store: StoreOption = None,
    json_output: JsonOption = False,
) -> None:
    """Copy a version's files into a folder, verified; model.onnx loads with onnxruntime alone."""
    from foundry_ray import registry
    from foundry_ray.context import open_context

    with open_context(store) as context:
        entry = registry.resolve(context.store, model)
        folder = directory or Path(f"{entry.name}-{entry.version}")
        files = registry.pull(context.store, entry, folder)
    emit(
        {"model": f"{entry.name}:{entry.version}", "files": {name: str(path) for name, path in files.items()}},
        text(f"Pulled {entry.name}:{entry.version} into {folder}"),
    )


def predict(
    model: ModelArgument,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, a folder of images, or a .npy of uint8 (N, C, H, W).")],
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
    models.command("list")(models_list)
    models.command("show")(models_show)
    models.command("pull")(models_pull)
    app.add_typer(models, name="models")
    app.command("predict")(predict)
