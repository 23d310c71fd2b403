"""Before a run uses what lies in the store: see that no collection of garbage is about to take it away.

The order matters: the run's record names what it is about to use, and then it looks here. A collection whose last look came before the record
is in the middle of its deletions now, and is let finish; what is there after that stays.
"""

from __future__ import annotations

from foundry_ray.artifacts.plans import deleting_plan
from foundry_ray.errors import Conflict
from foundry_ray.protocols import ArtifactStore, Clock, Reporter

_POLL_S = 0.5


def outlast_collections(store: ArtifactStore, needs: tuple[str, ...], *, what: str, wait_s: float, clock: Clock, reporter: Reporter) -> bool:
    """Wait until no collection may delete anything whose key begins with one of `needs`. Returns whether there was one.

    Raises:
        Conflict: It did not end within `wait_s`.
    """
    deadline_s = clock.monotonic_s() + wait_s
    is_announced = False
    while (number := deleting_plan(store, lambda key: key.startswith(needs))) is not None:
        if clock.monotonic_s() > deadline_s:
            message = f"Collection {number} of garbage in {store.uri} did not end in {wait_s:g} s, and may delete what {what} would use."
            raise Conflict(message, hint="`foundry store gc --apply` finishes it; `limits.lease_wait_s` is the longest wait.", key=needs[0])
        if not is_announced:
            reporter.warn(f"{what} waits for collection {number} of garbage; if nobody runs it any more, `foundry store gc --apply` finishes it.")
            is_announced = True
        clock.sleep(_POLL_S)
    return is_announced
