"""What an optimizer's state is called in a checkpoint, whoever keeps it: a rule of ours, a torch optimizer, or DeepSpeed on a shard."""

from __future__ import annotations

TORCH_SLOTS = {
    "exp_avg": "mean",
    "exp_avg_sq": "variance",
    "momentum_buffer": "momentum",
    "row_var": "row",
    "col_var": "column",
    "weights": "optimizer_weights",
    "average": "optimizer_average",
}
"""Slots of a checkpoint by the names that optimizers have for them; any other name is its own slot. The last two are taken already."""
