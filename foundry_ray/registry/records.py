"""What is stored of a version: the model with its lineage, once; and the verdicts of its evaluations, of which the newest counts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from foundry_ray.artifacts.manifests import get_json
from foundry_ray.errors import ArtifactCorrupt, ArtifactNotFound
from foundry_ray.protocols import ArtifactStore
from foundry_ray.registry import naming, series
from foundry_ray.registry.lineage import rebuild
from foundry_ray.types import EvaluationReport, Json, Lineage, ModelArtifact, RegistryEntry, from_json, to_json

_BEFORE_LINEAGE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A registered model. `run_id` is the run that registered it first."""

    model: ModelArtifact
    run_id: str
    created_at: str
    lineage: Lineage | None = None
    format_version: int = series.FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one evaluation said about a version.

    `report` is the key of the evaluation stage's result, `after_move` the number of the champion's newest move at that moment (0: there was none;
    None: not recorded), which tells a registration that is repeated whether anybody has moved the champion since.
    """

    report: str
    passed: bool
    run_id: str
    created_at: str
    after_move: int | None = None
    format_version: int = 1


def load_version(store: ArtifactStore, name: str, version: int, *, is_whole: bool = True) -> Version:
    """A version. One request; where it was registered before lineage was kept, one more for the record of its run.

    Args:
        store: Where.
        name: A registered name.
        version: Its number.
        is_whole: Whether lineage that was not stored is looked for.

    Raises:
        ArtifactNotFound: With the versions, or the names, that there are.
    """
    naming.check_name(name, "model name")
    try:
        found = series.load(Version, store, series.key_of(naming.version_folder(name), version))
    except ArtifactNotFound as error:
        raise _unknown_version(store, name, version) from error
    if is_whole and found.lineage is None and found.format_version == _BEFORE_LINEAGE:
        return replace(found, lineage=rebuild(store, found.run_id))
    return found


def known_versions(store: ArtifactStore, name: str) -> list[int]:
    """At least one version number. Raises ArtifactNotFound, which names what there is."""
    naming.check_name(name, "model name")
    numbers = series.numbers(store, naming.version_folder(name))
    if numbers:
        return numbers
    known = names(store)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else "`foundry run pipeline.yaml` registers a model."
    raise ArtifactNotFound(f"no model is registered as {name!r}; registered: {', '.join(known) or 'none'}.", hint=hint, key=name)


def names(store: ArtifactStore) -> tuple[str, ...]:
    """All registered names, sorted. One request a thousand names."""
    return tuple(info.key.rpartition("/")[2] for info in store.list(f"{naming.NAMES}/"))


def newest_verdict(store: ArtifactStore, name: str, version: int) -> Verdict | None:
    """The verdict that counts, or None. Two requests."""
    folder = naming.report_folder(name, version)
    numbers = series.numbers(store, folder)
    return series.load(Verdict, store, series.key_of(folder, numbers[-1])) if numbers else None


def add_verdict(store: ArtifactStore, name: str, version: int, verdict: Verdict) -> Verdict:
    """Make a verdict the newest one, unless the newest says the same already. Returns the one that counts."""
    folder = naming.report_folder(name, version)
    counting = verdict

    def document(newest: int) -> Json:
        nonlocal counting
        last = series.load(Verdict, store, series.key_of(folder, newest)) if newest else None
        is_news = last is None or (last.report, last.passed) != (verdict.report, verdict.passed)
        counting = verdict if is_news or last is None else last
        return to_json(verdict) if is_news else None

    series.append(store, folder, document)
    return counting


def read_report(store: ArtifactStore, key: str) -> EvaluationReport:
    """The report that a verdict names. Raises ArtifactNotFound or ArtifactCorrupt."""
    if not key:
        raise ArtifactNotFound("no report is named.", hint="`foundry run` evaluates and registers.", key="report")
    document = get_json(store, key)
    if not isinstance(document, dict) or "outputs" not in document:
        raise ArtifactCorrupt(f"{key} is no result of an evaluation.", hint="`--fresh evaluation` makes it again.", key=key)
    return from_json(EvaluationReport, document["outputs"], what=key)


def failed_gates(store: ArtifactStore, verdict: Verdict | None) -> str:
    """Which gates a verdict names as failed, as words: "accuracy_drop_points is 4.2, wanted <= 3"."""
    if verdict is None:
        return "it was never evaluated"
    try:
        report = read_report(store, verdict.report)
    except (ArtifactNotFound, ArtifactCorrupt):
        return "its report is gone, so the gates cannot be named"
    failed = [f"{gate.name} is {gate.value:.4g}, wanted {gate.relation} {gate.limit:g}" for gate in report.gates if not gate.passed]
    return "; ".join(failed) or "it names no gate"


def entry_of(
    name: str,
    version: int,
    record: Version,
    verdict: Verdict | None,
    *,
    aliases: tuple[str, ...] = (),
    tags: Mapping[str, str] | None = None,
) -> RegistryEntry:
    """What is known of a version, as one value."""
    return RegistryEntry(
        name=name,
        version=version,
        model=record.model,
        report=verdict.report if verdict else "",
        passed=verdict is not None and verdict.passed,
        aliases=aliases,
        run_id=record.run_id,
        created_at=record.created_at,
        tags=dict(tags or {}),
        lineage=record.lineage,
    )


def _unknown_version(store: ArtifactStore, name: str, version: int) -> ArtifactNotFound:
    known = known_versions(store, name)
    message = f"{name} has no version {version}; versions: {listed(known)}."
    return ArtifactNotFound(message, hint=f"for example `{name}:{known[-1]}`.", key=f"{name}:{version}")


def listed(numbers: list[int]) -> str:
    """Numbers for a message: all of a few, the first and the last of many."""
    if len(numbers) <= 12:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:5]))}, ..., {', '.join(map(str, numbers[-5:]))}"
