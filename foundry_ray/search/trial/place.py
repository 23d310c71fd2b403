"""Where trials run, and what all of them share there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from foundry_ray import compression
from foundry_ray.protocols import ArtifactStore, Clock, Reporter
from foundry_ray.search.trial.context import Phases, TrialContext
from foundry_ray.search.trial.students import teacher_of
from foundry_ray.training.feed import TensorSplit
from foundry_ray.training.job import Distil
from foundry_ray.types import CompressionRecipe


class Arrays:
    """The arrays of a study as tensors that share their memory: training never writes to them."""

    def __init__(self, context: TrialContext) -> None:
        self._context = context
        self.train = TensorSplit.of(context.train)
        self.val = TensorSplit.of(context.val)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.logits_VNC = None if context.logits_VNC is None else torch.from_numpy(context.logits_VNC)

    def distil(self, recipe: CompressionRecipe) -> Distil | None:
        """The teacher's part in the loss, where the recipe gives it one."""
        step = recipe.step("distil")
        teachers = [teacher_of(self._context)] if compression.source_of(step) == "online" else []
        return compression.distillation(step, logits_VNC=self.logits_VNC, teachers=teachers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where trials run: one process, with all that they share.

    Attributes:
        arrays: Of the context, as tensors.
        device: `cpu` or `cuda:<index>`.
        between_steps: Called before each training step; blocks while somebody measures on this node.
        room_bytes: Memory for a trial's tensors on that device; None where nobody says.
        phases: What the process did with its time.
    """

    context: TrialContext
    arrays: Arrays
    store: ArtifactStore
    clock: Clock
    reporter: Reporter
    device: str
    between_steps: Callable[[], None]
    room_bytes: int | None
    phases: Phases
