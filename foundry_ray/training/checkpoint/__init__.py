"""Durable checkpoints: asynchronous, in parts that each rank writes, and readable by any number of ranks.

`layout` says what lies where and is torch-free, as is importing this package. `writer` saves (`plan` decides what, `buffer` holds the copy, `upload`
and `commit` store it), `reader` restores (`pieces` decides what, `ranges` reads it), `keeping` deletes. `bytes` is the small form of trials.
"""

from foundry_ray.training.checkpoint.keeping import chosen, keep
from foundry_ray.training.checkpoint.layout import PREFIX, Checkpoint, progress_key
from foundry_ray.training.checkpoint.reader import assemble, committed, fill, latest, restore
from foundry_ray.training.checkpoint.writer import CheckpointWriter

__all__ = ["PREFIX", "Checkpoint", "CheckpointWriter", "assemble", "chosen", "committed", "fill", "keep", "latest", "progress_key", "restore"]
