"""What is wrong in a store, whom it harms, and which command mends it. Pure: it judges what `contents` has read.

An object is *missing* where a document names it and it is not there, *corrupt* where it is not what the document says, *newer* where a later
foundry wrote it. *Orphaned* objects harm nobody, and *expired* trial checkpoints went because the retention lets them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal

from foundry_ray.housekeeping.belongings import plain
from foundry_ray.housekeeping.contents import Contents, Need
from foundry_ray.housekeeping.journals import missing_segments

Kind = Literal["missing", "corrupt", "newer", "orphaned", "expired"]
_STAGES = ("data", "teacher", "search", "student", "evaluation", "registry")
_TRIALS = re.compile(r"studies/[0-9a-f]{32}/trials/.+")
_CHECKPOINT = re.compile(r"checkpoints/([0-9a-f]{32})/.+")
_COLLECTED = ("artifacts", "blobs", "checkpoints", "studies", "stages")
_NUM_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding. `breaks` names the runs, versions and aliases that need the object; `fix` is the command that mends it, where there is one."""

    kind: Kind
    key: str
    detail: str
    breaks: tuple[str, ...] = ()
    fix: str = ""
    num_objects: int = 1
    size_bytes: int = 0

    @property
    def is_damage(self) -> bool:
        """Whether something that is needed is not there or not itself."""
        return self.kind in ("missing", "corrupt")


class Judge:
    """Judges one reading of a store."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def problems(self) -> Iterator[Problem]:
        """All that the listing and the documents show. What is missing may have come since: the caller looks again."""
        for key, document in sorted(self._contents.documents.items()):
            if document.fault is not None:
                yield self.problem("corrupt", key, document.fault.message)
            elif document.newer:
                hint = "`pip install -U foundry-ray`"
                yield Problem(kind="newer", key=key, detail=f"has format_version {document.newer}", breaks=self.breaks(key), fix=hint)
        for key, needs in sorted(self._needed.items()):
            yield from self._compared(key, needs)
        yield from self._expired()
        yield from self._gaps()

    def problem(self, kind: Kind, key: str, detail: str) -> Problem:
        """A finding about an object, with whom it harms and what mends it."""
        return Problem(kind=kind, key=key, detail=detail, breaks=self.breaks(key), fix=self._fix(key))

    def orphans(self) -> Iterator[Problem]:
        """What no run and no registered version leads to, one finding a kind."""
        contents = self._contents
        reached = contents.reached_from(root for root in contents.documents if root.startswith(("runs/", "registry/")))
        lost = sorted(key for key in contents.sizes if key.startswith(_COLLECTED) and key not in reached)
        for kind, keys in groupby(lost, lambda key: key.partition("/")[0]):
            found = list(keys)
            size = sum(contents.sizes[key] for key in found)
            shown = ", ".join(found[:_NUM_SHOWN]) + (", ..." if len(found) > _NUM_SHOWN else "")
            fix = "`foundry store gc --apply` removes it once it is old enough"
            yield Problem(kind="orphaned", key=f"{kind}/", detail=f"nothing names {shown}", fix=fix, num_objects=len(found), size_bytes=size)

    def breaks(self, key: str) -> tuple[str, ...]:
        """The runs, model versions and aliases that lead to an object."""
        return tuple(sorted({title for one in self._leading_to(key) if (title := self._title(one))}))

    def _compared(self, key: str, needs: list[Need]) -> Iterator[Problem]:
        size = self._contents.sizes.get(key)
        if size is None:
            if not self._is_expendable(key) and not self._is_elsewhere(key):
                yield self.problem("missing", key, "is named and not there")
            return
        for need in needs:
            is_short = need.is_part and need.size_bytes is not None and size < need.start + need.size_bytes
            if is_short or (not need.is_part and need.size_bytes not in (None, size)):
                yield self.problem("corrupt", key, f"has {size} bytes, wanted {need.start + (need.size_bytes or 0)}")
                return

    def _expired(self) -> Iterator[Problem]:
        """Of each trial the last checkpoint counts: those of earlier rungs go when there is a later one."""
        last = {key.rpartition("/")[0]: key for key in sorted(self._needed) if self._is_expendable(key)}
        gone = sorted(key for key in last.values() if key not in self._contents.sizes)
        for study, keys in groupby(gone, lambda key: key.partition("/trials/")[0]):
            num_gone = len(list(keys))
            detail = f"{num_gone} trial checkpoints are not kept: whoever goes on with those trials trains them again"
            yield Problem(kind="expired", key=f"{study}/trials/", detail=detail, num_objects=num_gone)

    def _gaps(self) -> Iterator[Problem]:
        """Segments that a journal lacks before its last one."""
        for key, sibling in missing_segments(self._contents.documents):
            detail = "is not there, and later segments are"
            yield Problem(kind="missing", key=key, detail=detail, breaks=self.breaks(sibling), fix=self._fix(sibling))

    def _is_expendable(self, key: str) -> bool:
        """A trial's checkpoint: training is deterministic, so it can be made again."""
        return _TRIALS.fullmatch(key) is not None

    def _is_elsewhere(self, key: str) -> bool:
        """A parent that manifests name, which cannot change, and that has been published again as a later generation since."""
        return plain(key) in self._artifacts and all(one.startswith("artifacts/") for one in self._named_in.get(key, ()))

    def _fix(self, key: str) -> str:
        if key.startswith("runs/"):
            return f"foundry runs delete {key.split('/')[1]}"
        if key.startswith(("latency/", "targets/")):
            return f"remove {key} from the store: it is a cache"
        leading = self._leading_to(key)
        source = next((self._contents.documents[one].source for one in leading if one.startswith("runs/")), "") or "PIPELINE"
        checkpoint = _CHECKPOINT.fullmatch(key)
        if checkpoint and any(one.startswith("stages/") and one.endswith(f"/{checkpoint.group(1)}.json") for one in leading):
            return "the stage is done and does not need it: set store.retention.checkpoints to none, then `foundry store gc --apply`"
        stages = [stage for stage in _STAGES if any(one.startswith(f"stages/{stage}/") for one in (*leading, key))]
        if stages:
            return f"foundry run {source} --fresh {stages[0]}"
        if any(one.startswith("registry/") for one in (*leading, key)):
            return "foundry runs import FILE, with an export from a store that has it"
        return "foundry store gc --apply" if not leading or not self.breaks(key) else f"foundry run {source}"

    def _leading_to(self, key: str) -> list[str]:
        """All documents from which the object is reached, the nearest first."""
        found: dict[str, None] = dict.fromkeys(self._named_in.get(key, ()))
        waiting = list(found)
        for one in waiting:
            fresh = [above for above in self._named_in.get(one, ()) if above not in found]
            found.update(dict.fromkeys(fresh))
            waiting.extend(fresh)
        return list(found)

    def _title(self, key: str) -> str:
        parts = key.split("/")
        if parts[0] == "runs":
            return f"run {parts[1]}"
        if parts[0] != "registry" or len(parts) < 4:
            return ""
        if parts[2] == "aliases":
            return f"alias {parts[1]}@{parts[3]}" if key == max(self._moves(parts[1], parts[3])) else ""
        return f"model {parts[1]}:{int(parts[3])}" if parts[3].isdigit() else ""

    def _moves(self, name: str, alias: str) -> Iterable[str]:
        return (key for key in self._contents.documents if key.startswith(f"registry/{name}/aliases/{alias}/"))

    @cached_property
    def _artifacts(self) -> frozenset[str]:
        return frozenset(plain(key) for key in self._contents.sizes if key.startswith("artifacts/"))

    @cached_property
    def _needed(self) -> dict[str, list[Need]]:
        needed: dict[str, list[Need]] = defaultdict(list)
        for document in self._contents.documents.values():
            for need in document.needs:
                needed[need.key].append(need)
        return needed

    @cached_property
    def _named_in(self) -> dict[str, list[str]]:
        named: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self._contents.documents):
            for one in self._contents.named_by(self._contents.documents[key]):
                named[one].append(key)
        return named
