"""Rows of the training split as a model takes them: a bounded draw that depends on the seed alone.

B rows of a batch; inputs (B, ...) are images as floats of raw pixels or token ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from foundry_ray.protocols import Given


def drawn(given: Given, *, num_rows: int) -> np.ndarray:
    """Numbers of at most `num_rows` rows, in ascending order; none where nobody gives rows. No generator but its own is touched."""
    present = 0 if given.inputs_N is None else len(given.inputs_N)
    chosen: np.ndarray = np.sort(np.random.default_rng(given.seed).permutation(present)[:num_rows])
    return chosen


def only(given: Given, rows_N: np.ndarray) -> Given:
    """What is given, with these rows alone."""
    assert given.inputs_N is not None, "asked of rows alone"
    labels_N = None if given.labels_N is None else given.labels_N[rows_N]
    return replace(given, inputs_N=given.inputs_N[rows_N], labels_N=labels_N)


def labelled_rows(labels_N: np.ndarray) -> np.ndarray:
    """Numbers of the rows whose label is known: all but those whose one label is below 0."""
    known: np.ndarray = np.flatnonzero(labels_N >= 0) if labels_N.ndim == 1 else np.arange(len(labels_N))
    return known


def labelled(given: Given) -> Given:
    """What is given, without the rows whose label is not known."""
    if given.inputs_N is None or given.labels_N is None:
        return given
    return only(given, labelled_rows(given.labels_N))


def batches(model: nn.Module, given: Given, rows_N: np.ndarray, *, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of these rows where `model` is; sequences without labels are their own."""
    assert given.inputs_N is not None, "`drawn` gives no rows where there are none"
    parameter = next(model.parameters())
    for start in range(0, len(rows_N), batch_size):
        rows_B = rows_N[start : start + batch_size]
        stored = torch.from_numpy(given.inputs_N[rows_B])
        labels_B = stored if given.labels_N is None else torch.from_numpy(np.asarray(given.labels_N[rows_B]))
        inputs = stored.to(parameter.dtype) if given.schema.kind == "images" else stored
        yield inputs.to(parameter.device), labels_B.to(parameter.device)
