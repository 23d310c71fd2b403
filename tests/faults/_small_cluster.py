"""Trains on a cluster of three Ray nodes on this machine while nodes are drained, killed and added. A process of its own: it has its own Ray.

python _small_cluster.py FOLDER drain|kill      ends with one line of JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

EPOCHS, STEPS = 25, 10


def main(folder: Path, how: str) -> None:
    from foundry_ray.runtime.env import worker_env

    with tempfile.TemporaryDirectory(prefix="fc", dir="/tmp") as short:
        (Path(short) / "ray").mkdir()
        os.environ.update({**worker_env(), "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": short})
        import ray
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 100 << 20}
        cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0, **small})
        nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
        cluster.wait_for_nodes()

        def lose() -> None:
            if how == "drain":
                drain(cluster.address, nodes[1].node_id)
            else:
                cluster.remove_node(nodes[1], allow_graceful=False)

        def gain() -> None:
            cluster.add_node(num_cpus=1, **small)

        print(json.dumps(train(folder, lose, gain)), flush=True)
        ray.shutdown()
        cluster.shutdown()


def drain(address: str, node_id: str) -> None:
    """As an administrator or a cloud's notice does it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address, "--node-id", node_id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "120"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def train(folder: Path, lose: Callable[[], None], gain: Callable[[], None]) -> dict[str, object]:
    from foundry_ray.artifacts import open_store
    from foundry_ray.config import CheckpointConfig, ModelConfig, Settings, TeacherConfig, TrainConfig
    from foundry_ray.runtime.session import Session
    from foundry_ray.testing.datasets import publish_bands
    from foundry_ray.testing.reporters import RecordingReporter
    from foundry_ray.testing.troubled import FACTORY
    from foundry_ray.training import checkpoint as checkpoints
    from foundry_ray.training.trainer import fit

    settings = Settings(home=folder / "home")
    store = open_store(f"file://{folder}/store", settings=settings)
    saved: list[int] = []

    class Watching(RecordingReporter):
        """Takes a node away in the first group, and gives one back to the second."""

        def __init__(self) -> None:
            super().__init__()
            self.acts = [lose, gain]

        def progress(self, done: float, total: float, note: str = "") -> None:
            super().progress(done, total, note)
            begun = sum("start_s" in values for _, values in self.points)
            if self.acts and begun + len(self.acts) == 3 and done >= 40:
                saved.append(int(done))
                self.acts.pop(0)()

    reporter = Watching()
    model = ModelConfig.model_validate({"family": FACTORY, "params": {"folder": str(folder / "ranks"), "pause_s": 0.15}})
    train = TrainConfig(epochs=EPOCHS, batch_size=32, lr=5e-3, precision="fp32", dropout=0.0)
    artifact = fit(
        TeacherConfig(model=model, train=train, workers=2, min_workers=1, checkpoint=CheckpointConfig(every_s=10_000.0)),
        task="image_classification",
        dataset=publish_bands(store, num_train=32 * STEPS),
        augment=(),
        seed=5,
        stage_key="k",
        store=store,
        settings=settings,
        reporter=reporter,
        session=Session(reporter=reporter, is_owner=False, started_head=False),
        export=None,
        cost=lambda model: (1, 1),
    )
    return {
        "begun_at": [step for step, values in reporter.points if "start_s" in values],
        "struck_at": saved,
        "warnings": reporter.warnings,
        "epochs": [epoch for epoch, _ in reporter.reports],
        "accuracy": artifact.val_metrics["accuracy"],
        "last_world_size": checkpoints.committed(store, "k")[-1].world_size,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
