"""How a member of a population changes the parameters that it takes over, and which parameters can change while a model trains."""

from __future__ import annotations

import random
from collections.abc import Mapping

from foundry_ray.search import relations
from foundry_ray.search.points import drawn, in_order, is_active, limits
from foundry_ray.types import Param, Scalar, SearchSpace

CHANGEABLE = (
    "lr",
    "weight_decay",
    "momentum",
    "grad_clip",
    "label_smoothing",
    "mixup_alpha",
    "cutmix_alpha",
    "dropout",
    "l1",
    "l2",
    "distil_alpha",
    "distil_temperature",
)
"""Parameters that keep the shapes of a model, the kind of its optimizer and the number of its steps, so that its weights and its optimizer's
state can be gone on with under another value."""
FACTORS = (0.8, 1.2)
_NUM_TRIES = 100


def explored(params: Mapping[str, Scalar], space: SearchSpace, *, resample_ratio: float, seed: int) -> dict[str, Scalar]:
    """Parameters near the given ones ("explore" of arXiv 1711.09846, section 4.1.1).

    Each number is multiplied by 0.8 or 1.2 and put back into its range and onto its step; a choice keeps its value. With probability
    `resample_ratio` a parameter is drawn anew instead. The result keeps the conditions and the relations of the space; where no try in 100 does, the
    parameters stay as they are.
    """
    source, ordered, kept = random.Random(seed), in_order(space.params), relations.of(space)
    for fresh in drawn(space, seed=seed, num_draws=_NUM_TRIES):
        point = _changed(params, fresh, ordered, resample_ratio, source)
        if point is not None and all(relation.holds(point) for relation in kept):
            return point
    return dict(params)


def _changed(
    params: Mapping[str, Scalar], fresh: Mapping[str, Scalar], ordered: tuple[Param, ...], resample_ratio: float, source: random.Random
) -> dict[str, Scalar] | None:
    """None where a parameter comes to exist that neither the old nor the fresh ones have."""
    point: dict[str, Scalar] = {}
    for param in ordered:
        if not is_active(param, point):
            continue
        is_resampled, factor = source.random() < resample_ratio, source.choice(FACTORS)
        if param.name not in params or (is_resampled and param.name in fresh):
            if param.name not in fresh:
                return None
            point[param.name] = fresh[param.name]
        else:
            point[param.name] = _scaled(param, params[param.name], factor)
    return point


def _scaled(param: Param, value: Scalar, factor: float) -> Scalar:
    if param.kind == "categorical" or isinstance(value, (str, bool)):
        return value
    low, high = limits(param)
    number = min(max(value * factor, low), high)
    if param.step:
        number = round(low + round((number - low) / param.step) * param.step, 12)
    return round(number) if param.kind == "int" else number
