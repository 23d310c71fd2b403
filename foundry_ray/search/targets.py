"""The teacher's logits for all trials of a study, computed once and kept in the store.

The augmentation of (row, view) is a function of the seed, so these logits belong to exactly the pixels that training sees.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.protocols import ArtifactStore, Reporter
from foundry_ray.types import DatasetRef, Json, ModelArtifact, SearchSpace, Step, canonical_sha256

if TYPE_CHECKING:
    import numpy as np

_VERSION = 1
_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """Which logits: of this teacher, on these views of the training split."""

    dataset: DatasetRef
    teacher: ModelArtifact
    augment: tuple[str, ...]
    views: int
    seed: int

    @property
    def key(self) -> str:
        """Where they lie in the store."""
        return target_key(
            fingerprint=self.dataset.fingerprint,
            teacher_sha256=self.teacher.artifact.sha256,
            augment=self.augment,
            views=self.views,
            seed=self.seed,
        )


def target_key(*, fingerprint: str, teacher_sha256: str, augment: tuple[str, ...], views: int, seed: int) -> str:
    """Where the logits of this teacher on this data set lie in the store."""
    parts: Json = [_VERSION, fingerprint, teacher_sha256, list(augment), views, seed]
    return f"targets/{canonical_sha256(parts)}.npz"


def trial_seed(seed: int) -> int:
    """One for all trials of a run: they see the same batches, and differ by their parameters alone."""
    return int(canonical_sha256({"seed": seed, "use": "trial"})[:7], 16)


def teacher_logits(spec: TargetSpec, *, store: ArtifactStore, reporter: Reporter) -> np.ndarray:
    """Float16 of shape (views, rows, classes): from the store, or computed here and stored. Raises ArtifactCorrupt."""
    import numpy as np

    if not has_logits(spec, store):
        buffer = io.BytesIO()
        np.savez(buffer, logits=_computed(spec, store, reporter))
        store.put(spec.key, buffer.getvalue())
    try:
        with np.load(io.BytesIO(store.get(spec.key)), allow_pickle=False) as saved:
            logits: np.ndarray = saved["logits"]
    except (ValueError, KeyError, OSError) as error:
        raise ArtifactCorrupt(f"{spec.key} holds no logits: {error}.", hint=f"delete {spec.key}: it is made again.", key=spec.key) from error
    return logits


def wants_logits(space: SearchSpace) -> bool:
    """Whether some recipe of a space learns from logits that are computed beforehand."""
    if not any(param.name.startswith("distil") for param in space.params):
        return False
    from foundry_ray.compression import source_of

    choices = {param.name.removeprefix("distil."): param.choices for param in space.params if param.name in ("distil.kind", "distil.source")}
    combined = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    return any(source_of(Step(kind="distil", params={"alpha": 1.0, **params})) == "cached" for params in combined)


def has_logits(spec: TargetSpec, store: ArtifactStore) -> bool:
    """Whether they are in the store already."""
    return store.stat(spec.key) is not None


def _computed(spec: TargetSpec, store: ArtifactStore, reporter: Reporter) -> np.ndarray:
    import torch

    from foundry_ray import compression, data, models

    teacher = models.load_model(store, spec.teacher).to("cuda:0" if torch.cuda.is_available() else "cpu")
    inputs_N = torch.from_numpy(data.load_split(spec.dataset, "train", store=store).inputs_N)
    return compression.teacher_targets(
        teacher, inputs_N, augment=spec.augment, views=spec.views, seed=spec.seed, batch_size=_BATCH_ROWS, reporter=reporter
    )
