"""From `training.fit` to the first step, through a Ray session, with foundry's settings.

    FOUNDRY_HOME=HOME PYTHONPATH=. python -m benchmarks.peers_train.startup_ours FOLDER

Writes FOLDER/ours.json: seconds by what they went into, as rank 0 and Ray told them, and the whole as the model saw it.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from pathlib import Path
from typing import cast

from benchmarks.peers_train.ray_phases import split
from foundry_ray import data
from foundry_ray.artifacts.manifests import get_json
from foundry_ray.config import DataConfig, ModelConfig, TeacherConfig, TrainConfig
from foundry_ray.context import Context, open_context
from foundry_ray.training.checkpoint import progress_key
from foundry_ray.training.trainer import fit
from foundry_ray.types import DatasetRef

_BATCH_SIZE, _NUM_WORKERS = 128, 2
_OF_RANK = ("imports", "model", "data", "engine", "restore", "first_step")
_SPLIT = {"train": 6_000, "val": 128, "test": 128}


def main(folder: Path) -> None:
    """Connect, then time."""
    probe = folder / "ours-probe.json"
    probe.unlink(missing_ok=True)
    with open_context(f"file://{folder}/store") as context:
        config = DataConfig.model_validate({"source": "fashion_mnist", "split": _SPLIT, "augment": ["flip"]})
        dataset = data.prepare(config, task="image_classification", seed=0, store=context.store, settings=context.settings, reporter=context.reporter)
        context.libraries = ("ray.train.torch", "foundry_ray.training.group")  # as the teacher's stage connects
        _ = context.session
        stage_key, called = uuid.uuid4().hex, time.time()
        _fit(context, dataset, stage_key, probe)
        said = get_json(context.store, progress_key(stage_key))
        assert isinstance(said, dict), "rank 0 has told how it began"
        phases = cast("dict[str, float]", dict(said["phases"]))  # type: ignore[arg-type]
        began = called + phases["driver"]
        phases = {"driver": phases["driver"], **split(began, began + phases["group"]), **{name: phases[name] for name in _OF_RANK}}
    result = {"total_s": json.loads(probe.read_text())[1] - called, "phases": phases}
    (folder / "ours.json").write_text(json.dumps(result))


def _fit(context: Context, dataset: DatasetRef, stage_key: str, probe: Path) -> None:
    model = ModelConfig(family="import:benchmarks.peers_train.probe:build", params={"path": str(probe), "share": _BATCH_SIZE // _NUM_WORKERS})
    train = TrainConfig(epochs=1, batch_size=_BATCH_SIZE)
    fit(
        TeacherConfig(model=model, train=train, workers=_NUM_WORKERS),
        task="image_classification",
        dataset=dataset,
        augment=("flip",),
        seed=0,
        stage_key=stage_key,
        store=context.store,
        settings=context.settings,
        reporter=context.reporter,
        session=context.session,
        export=lambda model: b"not served",
        cost=lambda model: (0, 0),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
