"""Which parts of the journals of studies are not there. Pure: keys in, keys out.

A journal is whole where all segments from its newest snapshot on are there, or from the first on where it has none (`search.segments`). Of the
segments before a snapshot some stay, to keep drivers apart that were taken over.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

_PART = re.compile(r"(studies/[0-9a-f]{32}/journal)(-snapshots)?/(\d{8})")


def missing_segments(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each segment that a later one shows to be missing, and the last segment of its journal, in key order."""
    segments: dict[str, set[int]] = defaultdict(set)
    starts: dict[str, int] = defaultdict(int)
    for key in keys:
        found = _PART.fullmatch(key)
        if found and found[2]:
            starts[found[1]] = max(starts[found[1]], int(found[3]))
        elif found:
            segments[found[1]].add(int(found[3]))
    for journal, numbers in sorted(segments.items()):
        last = max(numbers)
        for number in range(starts[journal], last):
            if number not in numbers:
                yield f"{journal}/{number:08d}", f"{journal}/{last:08d}"
