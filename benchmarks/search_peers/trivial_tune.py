"""Trials that do nothing through Ray Tune as its documentation has it, on Ray's own settings.

    RAY_AUTH_MODE=disabled PYTHONPATH=. python -m benchmarks.search_peers.trivial_tune FOLDER RAY NUM_TRIALS reused|fresh|nested

reused: a class whose actors are reused, without the checkpoint that Tune takes of each at its end; fresh: the same with an actor for each trial;
nested: each trial is a TorchTrainer with one worker. Ray's own files go into RAY, a short path. Writes FOLDER/tune.json: seconds from the call of
`fit` to the end, and the seconds at which each trial ended.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchTrainer


class Trivial(tune.Trainable):  # type: ignore[misc]
    """One step, and done."""

    def setup(self, config: dict[str, float]) -> None:
        self._x = config["x"]

    def step(self) -> dict[str, Any]:
        return {"loss": (self._x - 0.3) ** 2, "done": True}

    def reset_config(self, new_config: dict[str, float]) -> bool:
        self._x = new_config["x"]
        return True


def nested(config: dict[str, float]) -> None:
    """A trial that is a training run of Ray Train."""
    folder = config["folder"]
    trainer = TorchTrainer(
        lambda: None,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(name=f"nested-{secrets.token_hex(4)}", storage_path=str(folder)),
    )
    trainer.fit()
    tune.report({"loss": (config["x"] - 0.3) ** 2})


class _Ends(tune.Callback):  # type: ignore[misc]
    """Notes when trials end."""

    def __init__(self) -> None:
        self.at_s: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.at_s.append(time.perf_counter())


def main(folder: Path, ray_folder: str, num_trials: int, kind: str) -> None:
    """Connect, then time."""
    ray.init(address="local", num_cpus=2, _temp_dir=ray_folder, log_to_driver=False)
    ends = _Ends()
    trainable = tune.with_resources(nested, {"cpu": 0.01}) if kind == "nested" else tune.with_resources(Trivial, {"cpu": 1})
    tuner = tune.Tuner(
        trainable,
        param_space={"x": tune.uniform(0.0, 1.0), **({"folder": str(folder / "train")} if kind == "nested" else {})},
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", num_samples=num_trials, reuse_actors=kind == "reused", max_concurrent_trials=1 if kind == "nested" else None
        ),
        run_config=tune.RunConfig(
            name=f"{kind}-{secrets.token_hex(4)}",
            storage_path=str(folder / "tune"),
            verbose=0,
            callbacks=[ends],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False if kind != "nested" else None),
        ),
    )
    began_s = time.perf_counter()
    results = tuner.fit()
    total_s = time.perf_counter() - began_s
    assert not results.errors, results.errors[0]
    assert len(ends.at_s) == num_trials, f"{len(ends.at_s)} trials ended"
    (folder / "tune.json").write_text(json.dumps({"total_s": total_s, "ends_s": [at_s - began_s for at_s in ends.at_s]}))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
