"""Looks through a store for what is missing, corrupt or written by a later foundry (`foundry store verify`).

Without `deep` it reads every document and trusts the sizes in the listing; with it, every blob and checkpoint is read and hashed. Nothing is
written. A store that others write to meanwhile is judged fairly: what seems missing is looked for again before it is called so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from foundry_ray import registry
from foundry_ray.artifacts.cache import uncached
from foundry_ray.errors import ArtifactNotFound
from foundry_ray.housekeeping.contents import Contents, Need, read_contents
from foundry_ray.housekeeping.damage import Judge, Problem
from foundry_ray.housekeeping.parallel import in_parallel
from foundry_ray.housekeeping.stretches import sha256_of
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.runlog import find_run_id
from foundry_ray.training.checkpoint.layout import SINGLE

_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})(?:\.\d+)?")
_SINGLE = re.compile(rf"(?:studies/[0-9a-f]{{32}}/trials/.+|checkpoints/[0-9a-f]{{32}})/(?={SINGLE})\d{{6}}-([0-9a-f]{{32}})\..+")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCheck:
    """What a look through a store found. `scope` is the run or version that it was limited to, or empty."""

    store: str
    scope: str
    is_deep: bool
    num_objects: int
    num_documents: int
    num_hashed: int
    hashed_bytes: int
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        """Nothing is missing or corrupt."""
        return not any(problem.is_damage for problem in self.problems)


def check_store(store: ArtifactStore, *, name: str = "", deep: bool = False, reporter: Reporter) -> StoreCheck:
    """Look through the whole store, or what one run or version needs.

    Args:
        store: The store; it is only read.
        name: A run, or a model as `name@alias` or `name:version`; empty for everything.
        deep: Read and hash what the documents name, and every blob.
        reporter: Told how far it is.

    Raises:
        ArtifactNotFound: There is no such run or version.
    """
    store = uncached(store)
    roots = roots_of(store, name) if name else None
    contents = read_contents(store, roots=roots)
    judge = Judge(contents)
    problems = [problem for problem in judge.problems() if problem.kind != "missing" or store.stat(problem.key) is None]
    if roots is None:
        problems += judge.orphans()
    known = {problem.key for problem in problems}
    hashed = [need for need in _hashable(contents, is_all=roots is None) if need.key not in known] if deep else []
    problems += (judge.problem("corrupt", key, detail) for key, detail in _hash_all(store, hashed, reporter))
    return StoreCheck(
        store=store.uri,
        scope=name,
        is_deep=deep,
        num_objects=len(contents.sizes) if roots is None else len(contents.reached_from(roots) & contents.sizes.keys()),
        num_documents=len(contents.documents),
        num_hashed=len(hashed),
        hashed_bytes=sum(need.size_bytes or 0 for need in hashed),
        problems=tuple(problems),
    )


def roots_of(store: ArtifactStore, name: str) -> tuple[str, ...]:
    """The documents from which everything of a run, or of a model's version, is reached. Raises ArtifactNotFound."""
    if "@" not in name and ":" not in name:
        try:
            return (f"runs/{find_run_id(store, name)}/record.json",)
        except ArtifactNotFound:
            if name not in registry.names(store):
                raise
    entry = registry.resolve(store, name)
    reports = [info.key for info in store.list(f"registry/{entry.name}/reports/{entry.version:08d}/")]
    return (f"registry/{entry.name}/versions/{entry.version:08d}", *reports)


def _hashable(contents: Contents, *, is_all: bool) -> Iterator[Need]:
    """What has a hash to keep and is there: named files, each once, and objects that carry their hash in their name."""
    seen: set[tuple[str, int, str]] = set()
    for document in contents.documents.values():
        for need in document.needs:
            mark = (need.key, need.start, need.sha256)
            if need.sha256 and need.key in contents.sizes and mark not in seen:
                seen.add(mark)
                yield need
    reached = contents.sizes if is_all else contents.reached_from(contents.documents)
    for key in sorted(reached):
        found = _BLOB.fullmatch(key) or _SINGLE.fullmatch(key)
        if found and key in contents.sizes and (key, 0, found.group(1)) not in seen:
            yield Need(key=key, size_bytes=contents.sizes[key], sha256=found.group(1))


def _hash_all(store: ArtifactStore, needs: list[Need], reporter: Reporter) -> Iterator[tuple[str, str]]:
    """The keys whose bytes are others, with what was got and wanted, each once."""

    def check(need: Need) -> tuple[Need, str]:
        try:
            actual = sha256_of(store, need.key, start=need.start, size=need.size_bytes if need.is_part else None)
        except ArtifactNotFound:
            return need, ""  # removed since it was listed
        return need, "" if actual.startswith(need.sha256) else f"has sha256 {actual[:12]}, wanted {need.sha256[:12]}"

    total, done, told = sum(need.size_bytes or 0 for need in needs), 0, set()
    for need, detail in in_parallel(check, needs):
        done += need.size_bytes or 0
        reporter.progress(done, max(total, 1), f"hashing {need.key[-12:]}")
        if detail and need.key not in told:
            told.add(need.key)
            yield need.key, detail
