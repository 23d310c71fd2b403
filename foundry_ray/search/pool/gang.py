"""Groups of Ray Train workers for trials that several workers train: started from a worker of the study, which reserves nothing itself."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from foundry_ray.config import Settings
from foundry_ray.errors import FoundryError
from foundry_ray.protocols import ArtifactStore
from foundry_ray.search.pool.slots import Slots
from foundry_ray.search.pool.worker import Warnings
from foundry_ray.training.failures import RankCrashed, RankFailure
from foundry_ray.training.group import Group, device_of_worker, run_workers
from foundry_ray.training.scratch import Scratch

if TYPE_CHECKING:
    from foundry_ray.search.trial.context import TrialContext
    from foundry_ray.search.trial.gang import Stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a worker is told; `context` is a reference, which each node resolves once."""

    stretch: Stretch
    context: Any
    store: ArtifactStore
    settings: Settings
    use_gpu: bool


class RayGang:
    """Starts groups on the connected cluster. Made once, by the driver, and pickled: what the trials share goes into Ray's object store once.

    Args:
        context: What the trials share.
        slots: What a trial reserves.
        scratch: Where Ray Train keeps what it insists on writing.
    """

    def __init__(self, context: TrialContext, slots: Slots, *, store: ArtifactStore, settings: Settings, scratch: Scratch) -> None:
        self._context = ray.put(context)
        self._slots = slots
        self._store = store
        self._settings = settings
        self._scratch = scratch

    @property
    def num_workers(self) -> int:
        """In a group."""
        return self._slots.num_workers

    def train(self, stretch: Stretch) -> tuple[RankFailure, ...]:
        """See `trial.gang.Gang`."""
        per_worker, use_gpu = self._slots.per_worker, "GPU" in self._slots.per_worker
        group = Group(name=f"gang-{stretch.attempt}", num_workers=self._slots.num_workers, use_gpu=use_gpu, per_worker=per_worker)
        work = _Work(stretch=stretch, context=[self._context], store=self._store, settings=self._settings, use_gpu=use_gpu)
        return run_workers(_worker, work, group, self._scratch)


class _StoreWarnings(Warnings):
    """The reporter of a worker of a group: its warnings go the way that its epochs go."""

    def __init__(self, store: ArtifactStore, stretch: Stretch) -> None:
        super().__init__()
        self._store = store
        self._stretch = stretch

    def warn(self, message: str) -> None:
        """Leave a message for whoever started the group."""
        from foundry_ray.search.trial.gang import tell_warning

        tell_warning(self._store, self._stretch, message)


def _worker(config: dict[str, _Work]) -> None:
    """The border of a Ray Train worker: foundry's errors pass, all others become text that survives the journey."""
    try:
        _train(config["work"])
    except FoundryError:
        raise
    except Exception as error:
        raise RankCrashed(traceback.format_exc()) from error


def _train(work: _Work) -> None:
    from foundry_ray.clock import SystemClock
    from foundry_ray.evaluation.quiet import QuietGate
    from foundry_ray.search.trial.context import Phases
    from foundry_ray.search.trial.place import Arrays, Place
    from foundry_ray.search.trial.rank import train_stretch

    [reference] = work.context
    context: TrialContext = ray.get(reference)
    clock, gate = SystemClock(), QuietGate(home=work.settings.home)

    def pause() -> None:
        gate.wait(clock)

    place = Place(
        context=context,
        arrays=Arrays(context),
        store=work.store,
        clock=clock,
        reporter=_StoreWarnings(work.store, work.stretch),
        device=device_of_worker(use_gpu=work.use_gpu),
        between_steps=pause,
        room_bytes=None,
        phases=Phases(clock),
    )
    train_stretch(work.stretch, place)
