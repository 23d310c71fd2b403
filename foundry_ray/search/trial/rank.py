"""One worker's part in a trial that several train: build, take its pieces of the state, train, and give them back to rank 0, which stores them.

The state is whole in one object, as `checkpoint.bytes` has it, so each rank holds it in memory for a moment.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor

from foundry_ray.config import DeepSpeedConfig, TeacherConfig, TrainConfig
from foundry_ray.protocols import Fragment
from foundry_ray.search.trial.gang import Stretch, Told, tell
from foundry_ray.search.trial.place import Place
from foundry_ray.search.trial.students import Students
from foundry_ray.search.trial.training import fit_job, get_state, put_state
from foundry_ray.training.checkpoint.bytes import from_bytes
from foundry_ray.training.loop import Loop
from foundry_ray.training.optimizers import ELEMENTWISE
from foundry_ray.training.state import LoopState
from foundry_ray.types import Json

_Name = tuple[str, str]


def train_stretch(stretch: Stretch, place: Place) -> None:
    """Train to the end of a stretch. All ranks call it, in a process group that stands.

    Raises:
        Diverged: A loss is not finite.
        StoreError: A state cannot be read or written.
    """
    from foundry_ray.training.deepspeed import DeepSpeedEngine

    student = Students(place.context).make(stretch.params, stretch.seed)
    config = engine_config(student.train, stretch.shape.num_workers)
    engine = DeepSpeedEngine(student.model, config, stretch.shape, device=place.device, reporter=place.reporter)
    job = fit_job(place.context, place.arrays, student, stretch.shape, eval_transform=None)
    loop = Loop(job, engine, reporter=place.reporter, clock=place.clock, between_steps=place.between_steps)
    data = get_state(place.store, stretch.checkpoint, place.reporter)
    if data is not None:
        loop.restored(spread(data, loop.state()))
    while loop.epoch < stretch.to_epoch:
        row = {**loop.run_epoch(), "epoch": float(loop.epoch)}
        if engine.rank == 0 and loop.epoch < stretch.to_epoch:
            tell(place.store, stretch, Told(row=row))
    whole = gathered(loop.state())
    if whole is not None:
        tell(place.store, stretch, Told(row=row, checkpoint=put_state(place.store, stretch.prefix, whole)))


def engine_config(train: TrainConfig, num_workers: int) -> TeacherConfig:
    """How DeepSpeed trains a student: the optimizer's state is shared out where its rule allows it."""
    stage = 1 if train.optimizer in ELEMENTWISE else 0
    return TeacherConfig(train=train, workers=num_workers, engine="deepspeed", deepspeed=DeepSpeedConfig(zero_stage=stage))


def gathered(state: LoopState) -> LoopState | None:
    """(c) The whole state, on the CPU of rank 0; None on the others."""
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    mine = [_moved(fragment) for fragment in state.fragments if rank == 0 or not fragment.is_replicated]
    all_pieces: list[list[Fragment]] | None = [[]] * num_ranks if rank == 0 else None
    torch.distributed.gather_object(mine, all_pieces)
    if all_pieces is None:
        return None
    pieces = [piece for of_rank in all_pieces for piece in of_rank]
    wholes = _blank({(piece.slot, piece.name): piece.total for piece in pieces})
    for piece in pieces:
        wholes[piece.slot, piece.name].narrow(0, piece.start, piece.tensor.numel()).copy_(piece.tensor)
    return LoopState(document=state.document, fragments=_fragments(wholes), own={name: tensor.cpu() for name, tensor in state.own.items()})


def spread(data: bytes, state: LoopState) -> dict[str, Json]:
    """(c) Write what a whole state holds into this rank's pieces. Returns its document. Raises ArtifactCorrupt."""
    outlines: list[dict[_Name, int]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(outlines, {(fragment.slot, fragment.name): fragment.total for fragment in state.fragments})
    wholes = _blank({name: total for outline in outlines for name, total in outline.items()})
    document = from_bytes(data, LoopState(document={}, fragments=_fragments(wholes), own=state.own))
    with torch.no_grad():
        for fragment in state.fragments:
            fragment.tensor.copy_(wholes[fragment.slot, fragment.name].narrow(0, fragment.start, fragment.tensor.numel()))
    return document


def _moved(fragment: Fragment) -> Fragment:
    """A copy that can be sent, without what else lies in the same memory."""
    copied = fragment.tensor.detach().cpu().clone()
    return Fragment(slot=fragment.slot, name=fragment.name, start=fragment.start, total=fragment.total, tensor=copied)


def _blank(totals: dict[_Name, int]) -> dict[_Name, Tensor]:
    return {name: torch.zeros(total) for name, total in totals.items()}


def _fragments(wholes: dict[_Name, Tensor]) -> tuple[Fragment, ...]:
    return tuple(Fragment(slot=slot, name=name, start=0, total=tensor.numel(), tensor=tensor) for (slot, name), tensor in wholes.items())
