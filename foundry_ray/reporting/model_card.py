"""The card that is published with a model: what it does, what it was made of and how, what it came to on val, and what it must not be trusted with.

It is a function of the model and of what was proven, so that the same model has the same card. What is measured of it on test, and its version, are
the registry's to say: `card.card_markdown` joins both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from foundry_ray.config import CardConfig
from foundry_ray.reporting import units
from foundry_ray.reporting.markdown import HEADING, SERVING, latency_rows, markdown_table
from foundry_ray.types import DatasetRef, ImageSchema, LatencyResult

_NOT_STATED = "not stated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a card is written of.

    Attributes:
        recipe: Each step in words.
        steps: What each came to, as sentences, where that was looked at.
        val_metrics: The last ones on val.
        latency: Of the served file.
        file_bytes: Of each published file, by name.
        runtime: What runs it, and in which precision.
        stated: What its makers say.
        notes: What was proven of it, as sentences.
    """

    family: str
    num_params: int
    num_macs: int
    dataset: DatasetRef
    recipe: Sequence[str]
    steps: Sequence[str]
    val_metrics: Mapping[str, float]
    latency: Sequence[LatencyResult]
    file_bytes: Mapping[str, int]
    runtime: str
    stated: CardConfig
    notes: Sequence[str] = ()


def published_card(made: Made) -> str:
    """The card as Markdown."""
    parts = [f"{HEADING}{made.family}, {made.dataset.task}", ""]
    for title, lines in (
        ("What it does", _does(made)),
        ("Data", _data(made.dataset)),
        ("Metrics on val", _metrics(made)),
        ("How it was compressed", _compressed(made)),
        ("Size and latency", _sizes(made)),
        ("What was proven", (f"- {note}" for note in made.notes)),
        ("Limits", _limits(made)),
        ("Licence", _licence(made.stated)),
        ("How to serve it", iter((SERVING,))),
    ):
        parts += [f"## {title}", "", *lines, ""]
    return "\n".join(parts)


def _does(made: Made) -> Iterator[str]:
    schema = made.dataset.schema
    yield f"Task: {made.dataset.task}. It tells {len(schema.classes)} classes apart: {', '.join(schema.classes)}."
    if isinstance(schema, ImageSchema):
        shape = " x ".join(map(str, schema.shape))
        yield f"It takes raw pixels (channels x height x width: {shape}, {schema.dtype}, 0 to 255) and normalises them itself."
    else:
        yield f"It takes {schema.length} token ids a row (0 to {schema.vocab_size - 1}); shorter texts are padded, longer ones cut."
    yield f"Intended use: {made.stated.intended_use or _NOT_STATED}."


def _data(dataset: DatasetRef) -> Iterator[str]:
    rows = ", ".join(f"{name} {split.num_rows:,}" for name, split in dataset.splits.items())
    yield f"Fingerprint `{dataset.fingerprint}`; rows: {rows}."
    yield from (f"- {note}" for note in dataset.notes)


def _metrics(made: Made) -> Iterator[str]:
    rows = [(name, units.value(name, value)) for name, value in made.val_metrics.items()]
    if not rows:
        yield "None were taken."
        return
    yield from markdown_table(("metric", "val"), rows)


def _compressed(made: Made) -> Iterator[str]:
    yield from ([f"{number}. {words}" for number, words in enumerate(made.recipe, 1)] or ["It was not compressed."])
    if made.steps:
        yield from ("", "What it came to after each step:", "", *(f"- {step}" for step in made.steps))


def _sizes(made: Made) -> Iterator[str]:
    files = [(f"`{name}`", f"{size:,} bytes") for name, size in sorted(made.file_bytes.items())]
    yield from markdown_table(
        ("", ""), [("parameters", f"{made.num_params:,}"), ("multiply-accumulates of one sample", f"{made.num_macs:,}"), *files]
    )
    if made.latency:
        yield from ("", *markdown_table(("p50", "p95", "measured"), latency_rows(made.latency)))
    else:
        yield from ("", "Latency was not measured when it was published; the evaluation of its version states it, with the device.")


def _limits(made: Made) -> Iterator[str]:
    schema = made.dataset.schema
    yield f"- It answers with one of its {len(schema.classes)} classes whatever it is given; inputs unlike its training data are not noticed."
    yield "- The number of rows in a call is free; the shape of a row is fixed."
    yield f"- It was made for {made.runtime}; another runtime rounds otherwise, and may be slower."
    yield "- Numbers above are of val, which chose the model, and so flatter it; those of test are the evaluation's."
    if made.stated.limits:
        yield f"- {made.stated.limits}"


def _licence(stated: CardConfig) -> Iterator[str]:
    yield f"- Of the model: {stated.license or _NOT_STATED}{f' ({stated.license_url})' if stated.license_url else ''}"
    yield f"- Of the data: {stated.data_license or _NOT_STATED}"
    yield f"- Contact: {stated.contact or _NOT_STATED}"
