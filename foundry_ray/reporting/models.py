"""What the `models` commands print: the list, the card, the history of an alias, the tree of a lineage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from foundry_ray.reporting import units
from foundry_ray.reporting.tables import comparison_table, simple
from foundry_ray.types import Json, Lineage, RegistryEntry, to_json

if TYPE_CHECKING:
    from foundry_ray.registry import AliasMove, ModelCard

_COLUMNS = ("model", "aliases", "gates passed", "parameters", "served file", "tags", "registered")


def models_table(entries: Sequence[RegistryEntry], warnings: Sequence[str] = ()) -> RenderableType:
    """One line a version, and below what a user must not miss."""
    rows = [
        (
            f"{entry.name}:{entry.version}",
            ", ".join(aliases(entry)) or "-",
            "yes" if entry.passed else "no",
            units.si_count(entry.model.num_params),
            units.si_bytes(entry.model.size_bytes),
            tags(entry) or "-",
            entry.created_at,
        )
        for entry in entries
    ]
    table = simple("", _COLUMNS, rows, right=("parameters", "served file"))
    return Group(table, *_warnings(warnings)) if warnings else table


def card_view(card: ModelCard) -> RenderableType:
    """What one version is, how it was judged, and what to beware of."""
    table = simple("", ("", ""), facts(card))
    judged: list[RenderableType] = ["", comparison_table(card.evaluation)] if card.evaluation is not None else []
    return Group(table, *judged, *_warnings(card.warnings))


def card_document(card: ModelCard) -> Json:
    """The card as JSON: the entry's own fields at the top, then evaluation, signature and warnings."""
    document, entry = to_json(card), to_json(card.entry)
    assert isinstance(document, dict)
    assert isinstance(entry, dict)
    del document["entry"]
    return {**entry, **document}


def facts(card: ModelCard) -> list[tuple[str, str]]:
    """The lines of a card, for terminal and file."""
    entry, model = card.entry, card.entry.model
    return [
        ("model", f"{entry.name}:{entry.version}, registered {entry.created_at}"),
        ("aliases", ", ".join(aliases(entry)) or "-"),
        ("tags", tags(entry) or "-"),
        ("gates", "passed" if entry.passed else "NOT PASSED by its newest report"),
        ("signature", card.signature.detail),
        ("family", model.family),
        ("parameters", units.si_count(model.num_params)),
        ("MACs", units.si_count(model.num_macs)),
        ("served file", units.si_bytes(model.size_bytes)),
        *(("recipe" if number == 0 else "", step) for number, step in enumerate(card.recipe or ("-",))),
        *((f"val {name}", units.value(name, value)) for name, value in model.val_metrics.items()),
        *lineage_lines(entry.lineage),
        ("artifact", model.artifact.key),
        ("report", entry.report or "-"),
        ("run", entry.run_id or "-"),
        *(("note", note) for note in model.notes),
    ]


def aliases(entry: RegistryEntry) -> list[str]:
    """The aliases, with a mark at a champion that would not become one today."""
    return [f"{alias} (newest report failed)" if alias == "champion" and not entry.passed else alias for alias in entry.aliases]


def tags(entry: RegistryEntry) -> str:
    """The tags on one line."""
    return ", ".join(f"{key}={value}" for key, value in sorted(entry.tags.items()))


def lineage_lines(lineage: Lineage | None) -> Iterator[tuple[str, str]]:
    """The lineage in three lines."""
    if lineage is None:
        yield "lineage", "not known"
        return
    yield "made by", f"trial {lineage.trial.number} of study {lineage.study_key[:12]}, taught by {lineage.teacher_sha256[:12]}"
    yield "data", f"fingerprint {lineage.dataset_fingerprint[:12]}, {_split(lineage.config)}"
    yield "code", ", ".join(f"{name} {value[:18]}" for name, value in lineage.code.items())


def history_table(moves: Sequence[AliasMove]) -> Table:
    """One line a move, oldest first."""
    rows = [
        (str(move.number), f"{move.previous or '-'} -> {move.version}", move.kind, move.at, move.by, move.reason or "-", _stage_key(move.report))
        for move in moves
    ]
    return simple("", ("#", "version", "kind", "when", "who", "why", "report"), rows, right=("#",))


def _stage_key(report: str) -> str:
    """The beginning of the evaluation's stage key, of `stages/evaluation/<key>.json`."""
    return report.rpartition("/")[2].removesuffix(".json")[:12] or "-"


def lineage_tree(entry: RegistryEntry, recipe: Sequence[str]) -> RenderableType:
    """Version -> trial -> recipe -> teacher -> data, and beside it code, libraries, seeds and stages."""
    lineage = entry.lineage
    root = Tree(Text(f"{entry.name}:{entry.version}  {entry.model.artifact.key}", style="bold"))
    if lineage is None:
        root.add("not known: it was registered before lineage was kept, and the record of its run is gone")
        return root
    trial = lineage.trial
    params = ", ".join(f"{name}={_short(value)}" for name, value in sorted(trial.params.items()))
    found = root.add(Text(f"trial {trial.number} of study {lineage.study_key}: {params}"))
    steps = found.add(Text(f"recipe {trial.recipe.sha256[:12]}"))
    for step in recipe:
        steps.add(Text(step))
    data = steps.add(Text(f"teacher {lineage.teacher}")).add(Text(f"data {lineage.dataset_fingerprint}, {_split(lineage.config)}"))
    data.add(Text(lineage.dataset_key))
    for title, values in (("code", lineage.code), ("libraries", lineage.versions), ("seeds", lineage.seeds), ("stages", lineage.stages)):
        branch = root.add(title)
        for name, value in values.items():
            branch.add(Text(f"{name} {value}"))
    root.add(Text(f"run {lineage.run_id}"))
    return root


def _split(config: Json) -> str:
    data = config.get("data") if isinstance(config, dict) else None
    split = data.get("split") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(split, dict):
        return "split not known"
    shares = ", ".join(f"{name} {_short(split[name])}" for name in ("train", "val", "test") if name in split)
    return f"source {data.get('source')}, split {shares}"


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _warnings(warnings: Sequence[str]) -> list[Text]:
    return [Text(f"warning: {warning}", style="yellow") for warning in warnings]
