"""What about training can be refused before anything starts: no torch, no DeepSpeed, no Ray is imported here.

Decides which engine trains, and whether a configuration can train at all. `preflight` checks the model itself, once it exists.
"""

from __future__ import annotations

from typing import Literal

from foundry_ray.config import TeacherConfig


def resolved_engine(config: TeacherConfig) -> Literal["torch", "deepspeed"]:
    """Who trains: `auto` takes torch for one worker, and DeepSpeed for more or where a setting is asked for that only it has."""
    if config.engine != "auto":
        return config.engine
    return "deepspeed" if config.workers > 1 or deepspeed_only(config) else "torch"


def deepspeed_only(config: TeacherConfig) -> tuple[str, ...]:
    """The keys that are set and that only DeepSpeed follows: for one worker a ZeRO stage by itself changes nothing, and is not among them."""
    asked = config.deepspeed
    keys = {
        "weights": asked.weights == "precision",
        "offload_optimizer.device": asked.offload_optimizer.device != "none",
        "offload_params.device": asked.offload_params.device != "none",
        "extra": bool(asked.extra),
    }
    return tuple(f"teacher.deepspeed.{key}" for key, is_set in keys.items() if is_set)
