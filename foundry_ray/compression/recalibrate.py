"""Statistics of batch norms for a model whose channels were cut: the old ones are of activations that nobody makes any more.

Means and variances are taken anew over training rows, all other parts of the model in evaluation mode, so that nothing is drawn at random.
"""

from __future__ import annotations

import torch
from torch import nn

from foundry_ray.compression.rows import batches, drawn
from foundry_ray.models.modes import evaluating
from foundry_ray.protocols import Given

_ROWS = 256
_BATCH = 64


def recalibrate(model: nn.Module, given: Given) -> bool:
    """Take the statistics of all batch norms over up to 256 training rows; False where there are no norms or fewer than two rows.

    The mean of whole batches' statistics, as batch norm itself has it with `momentum=None` (arXiv 1502.03167, algorithm 2).
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats]
    rows_N = drawn(given, num_rows=_ROWS)
    if not norms or len(rows_N) < 2:
        return False
    batch_size = min(_BATCH, len(rows_N))
    whole_N = rows_N[: len(rows_N) // batch_size * batch_size]
    momenta, counts = [norm.momentum for norm in norms], [norm.num_batches_tracked for norm in norms]
    counted = [None if count is None else count.clone() for count in counts]
    with torch.no_grad(), evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for inputs, _ in batches(model, given, whole_N, batch_size=batch_size):
            model(inputs)
    for norm, momentum, before in zip(norms, momenta, counted, strict=True):
        norm.momentum = momentum
        if norm.num_batches_tracked is not None and before is not None:
            norm.num_batches_tracked.copy_(before)
    return True
