"""From `fit` to the first step with Ray Train and DeepSpeed as their documentation has it, on Ray's own settings.

    TORCH_EXTENSIONS_DIR=FOLDER PYTHONPATH=. python -m benchmarks.peers_train.startup_plain FOLDER RAY

Ray's own files go into RAY, a short path. Writes FOLDER/plain.json: seconds by what they went into. DeepSpeed builds nothing where its
JIT cache is warm.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import ray
import ray.train
from ray.train.torch import TorchTrainer

_BATCH_SIZE, _NUM_ROWS = 128, 6_000


def train(config: dict[str, str]) -> None:
    """What a worker does: two steps."""
    marks = {"group": time.time()}
    import deepspeed
    import numpy as np
    import torch

    marks["imports"] = time.time()
    saved = np.load(config["rows"])
    images_NCHW, labels_N = torch.from_numpy(saved["images"][:_NUM_ROWS]), torch.from_numpy(saved["labels"][:_NUM_ROWS])
    marks["data"] = time.time()
    from benchmarks.peers_train.job import Autocast
    from benchmarks.peers_train.probe import build
    from foundry_ray.types import ImageSchema

    rank, share = ray.train.get_context().get_world_rank(), _BATCH_SIZE // ray.train.get_context().get_world_size()
    schema = ImageSchema(channels=1, height=28, width=28, dtype="uint8", classes=tuple("0123456789"))
    network = Autocast(build(schema, path=config["probe"], share=share))
    marks["model"] = time.time()
    settings = {
        "train_micro_batch_size_per_gpu": share,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, fused=True)  # DeepSpeed's own would be loaded besides
    engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=settings)
    marks["engine"] = time.time()
    for step in range(2):
        rows = slice((2 * step + rank) * share, (2 * step + rank + 1) * share)
        loss = torch.nn.functional.cross_entropy(engine(images_NCHW[rows].float()), labels_N[rows])
        engine.backward(loss)
        engine.step()
        marks.setdefault("first_step", time.time())
    if rank == 0:
        Path(config["marks"]).write_text(json.dumps(marks))


def main(folder: Path, ray_folder: str) -> None:
    """Connect, then time."""
    from benchmarks.peers_train.ray_phases import split
    from benchmarks.peers_train.rows import fashion_rows

    probe, marks = folder / "plain-probe.json", folder / "plain-marks.json"
    probe.unlink(missing_ok=True)
    config = {"rows": str(fashion_rows()), "probe": str(probe), "marks": str(marks)}
    ray.init(address="local", num_cpus=2, _temp_dir=ray_folder, log_to_driver=False)
    called = time.time()
    trainer = TorchTrainer(
        train,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(name=f"plain-{called:.0f}", storage_path=str(folder / "ray")),
    )
    trainer.fit()
    begun = json.loads(marks.read_text())
    before = begun.pop("group")
    phases = split(called, before)
    for name, at in begun.items():
        phases[name], before = at - before, at
    (folder / "plain.json").write_text(json.dumps({"total_s": json.loads(probe.read_text())[1] - called, "phases": phases}))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
