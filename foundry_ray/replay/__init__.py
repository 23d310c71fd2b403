"""A registered version made again from its lineage, and held against the original.

    original     what registry, lineage and report say of it         only reads
    rebuilding   data -> teacher -> student -> report, once more      in a store of its own
    comparing    point by point, and the verdict                      pure

The search is not done again: what it proposes hangs on measured times. Its outcome, the chosen trial, is taken from the lineage and trained
from the first step to its full budget.
"""

from foundry_ray.replay.comparing import Making, Outcome, Point, Verdict, compare, differences, judge
from foundry_ray.replay.original import Original, find_original
from foundry_ray.replay.rebuilding import Replay, replay

__all__ = [
    "Making",
    "Original",
    "Outcome",
    "Point",
    "Replay",
    "Verdict",
    "compare",
    "differences",
    "find_original",
    "judge",
    "replay",
]
