"""Everything that is known of a version, as one value: what `foundry models show` prints and MODEL_CARD.md says."""

from __future__ import annotations

from dataclasses import dataclass

from foundry_ray.config import SigningKeys
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import reading, records, signatures
from foundry_ray.registry.naming import CHAMPION
from foundry_ray.registry.signatures import SignatureState
from foundry_ray.types import CompressionRecipe, EvaluationReport, RegistryEntry

CARD_FILE = "MODEL_CARD.md"
_WORDS = {
    "trim_vocabulary": "tokens that training texts hardly have share one row of the embedding",
    "shrink": "a narrower or shallower network of the teacher's family",
    "factorize": "weights as products of narrower ones",
    "prune": "whole channels, heads or layers removed",
    "distil": "taught by the teacher's answers",
    "quantize": "numbers stored in fewer bits",
    "sparsify": "single weights set to zero",
    "runtime": "what runs the file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A version with its evaluation (None where the report is gone) and signature; `warnings` are what a user must not miss."""

    entry: RegistryEntry
    evaluation: EvaluationReport | None
    signature: SignatureState
    recipe: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def model_card(store: ArtifactStore, reference: str, *, keys: SigningKeys | None = None) -> ModelCard:
    """The card of `name@alias` or `name:version`. Eight requests, one an alias of the name, and one as `reading.show`.

    Raises:
        ConfigError, ArtifactNotFound: As `resolve`.
    """
    entry = reading.show(store, reference)
    try:
        evaluation = records.read_report(store, entry.report)
    except (ArtifactNotFound, ArtifactCorrupt):
        evaluation = None
    signature = signatures.signature_state(store, entry, keys=keys)
    recipe = tuple(recipe_in_words(entry.model.recipe))
    return ModelCard(entry=entry, evaluation=evaluation, signature=signature, recipe=recipe, warnings=_warnings(entry, evaluation, signature))


def published_card(store: ArtifactStore, entry: RegistryEntry) -> str:
    """The card that was published with a version's model, as Markdown; empty where there was none yet. Two requests."""
    from foundry_ray.artifacts import manifests

    key = entry.model.artifact.key
    return manifests.read_file(store, key, CARD_FILE).decode() if CARD_FILE in manifests.load_manifest(store, key).files else ""


def is_fallen(entry: RegistryEntry) -> bool:
    """Whether an alias that must be earned points at a version whose newest report did not pass."""
    return CHAMPION in entry.aliases and not entry.passed


def fallen_warning(entry: RegistryEntry) -> str:
    """What to say, and to do, about a version that `is_fallen`."""
    name = entry.name
    return f"{name}@{CHAMPION} points at version {entry.version}, whose newest report failed; `foundry models rollback {name}` goes back."


def recipe_in_words(recipe: CompressionRecipe) -> list[str]:
    """One sentence a step: what it does, and with which parameters."""
    sentences = []
    for step in recipe.steps:
        params = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in sorted(step.params.items()))
        sentences.append(f"{step.kind}: {_WORDS.get(step.kind, 'a step of a plugin')}{f' ({params})' if params else ''}")
    return sentences


def _warnings(entry: RegistryEntry, evaluation: EvaluationReport | None, signature: SignatureState) -> tuple[str, ...]:
    found = [fallen_warning(entry)] if is_fallen(entry) else []
    if evaluation is None:
        found.append("its report cannot be read; `foundry run` with the same pipeline evaluates it again.")
    if signature.status == "invalid":
        found.append(f"{signature.detail}; it will not be served where FOUNDRY_VERIFY_KEY is set.")
    return tuple(found)
