"""Which rows of a batch are mixed with which, and how much: a function of (seed, step) and of the place in the global batch.

Mixup (arXiv 1710.09412) takes x = lam * own + (1 - lam) * partner, cutmix (arXiv 1905.04899) puts a box of the partner into the image; lam is
drawn from Beta(alpha, alpha), once for the whole batch. The partner of place i is place (i + shift) % batch_size, so neither the number of
workers nor the micro-batch changes what is mixed. No generator is involved: numbers come from hashes. Shapes: B batch, H height, W width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from foundry_ray.config import TrainConfig
from foundry_ray.data.hashing import mix
from foundry_ray.errors import ConfigError, OutOfRange

if TYPE_CHECKING:
    from torch import Tensor

_STREAM = 0x6D6978


@dataclass(frozen=True, slots=True, kw_only=True)
class MixPlan:
    """How the rows of one global batch are mixed.

    Attributes:
        kind: Blend whole inputs, or cut a box.
        lam: Share of an input that is its own, as drawn; a box at the border is smaller, so ask `own_ratio`.
        shift: Places from a row to its partner, in [1, batch_size) (0 in a batch of one).
        box: Of cutmix: the centre's y and x and the side, as shares of the height and width; zeros for mixup.
    """

    kind: Literal["mixup", "cutmix"]
    lam: float
    shift: int
    box: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def own_ratio(self, shape: Sequence[int]) -> float:
        """Share of its own that each input keeps, and so the weight of its own label; `shape` is that of the inputs, (B, ...)."""
        if self.kind == "mixup":
            return self.lam
        top, bottom, left, right = self.pixels(shape[2], shape[3])
        return 1 - (bottom - top) * (right - left) / (shape[2] * shape[3])

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The box in an image of this size: first and past-the-last row, first and past-the-last column."""
        y, x, side = self.box
        return *_span(y, side, height), *_span(x, side, width)


def check_mixing(train: TrainConfig, *, has_images: bool, is_continuous: bool = True, distils: bool = False) -> None:
    """See that what is asked for can be mixed, before anything starts.

    Args:
        train: Holds the two alphas.
        has_images: Inputs are images, (B, C, H, W).
        is_continuous: Inputs are measured values (pixels, numbers); a mean of two token numbers means nothing.
        distils: A teacher's answers, made beforehand for single inputs, are learnt from.

    Raises:
        OutOfRange: Cutmix without images, or mixup of numbered things.
        ConfigError: Mixing together with a teacher's cached answers.
    """
    if train.cutmix_alpha and not has_images:
        raise _cannot("train.cutmix_alpha", train.cutmix_alpha, "images (B, C, H, W)")
    if train.mixup_alpha and not is_continuous:
        raise _cannot("train.mixup_alpha", train.mixup_alpha, "inputs that are values and not numbers of tokens")
    if distils and (train.mixup_alpha or train.cutmix_alpha):
        message = "train.mixup_alpha or train.cutmix_alpha is above 0 while distilling, wanted one or the other: the teacher never saw a mixed input."
        raise ConfigError(message, hint="set both to 0 for the student, or `distil.source: online`.")


def _cannot(key: str, value: float, wanted: str) -> OutOfRange:
    return OutOfRange(f"{key} is {value}, but the data set has no {wanted}; wanted 0.", hint=f"set `{key}: 0`.", key=key, value=value)


def plan_mix(train: TrainConfig, *, seed: int, step: int) -> MixPlan | None:
    """What is done to the global batch of a step, counted from 0; None where neither kind is on. With both, a coin decides per batch."""
    if not train.mixup_alpha and not train.cutmix_alpha:
        return None
    numbers = _uniforms(mix(seed, step, _STREAM))
    coin, place, y, x = itertools.islice(numbers, 4)
    is_cut = not train.mixup_alpha or (train.cutmix_alpha > 0 and coin < 0.5)
    lam = _beta(train.cutmix_alpha if is_cut else train.mixup_alpha, numbers)
    others = train.batch_size - 1
    shift = 1 + int(place * others) if others else 0
    if not is_cut:
        return MixPlan(kind="mixup", lam=lam, shift=shift)
    return MixPlan(kind="cutmix", lam=lam, shift=shift, box=(y, x, math.sqrt(1 - lam)))


def apply(plan: MixPlan, inputs: Tensor, partners: Tensor) -> Tensor:
    """Float inputs (B, ...) mixed with their partners, row by row, into a new tensor.

    Written as separate products: a fused one may round differently with a row's place in memory, and so with the micro-batch.
    """
    if plan.kind == "mixup":
        return inputs * plan.lam + partners * (1 - plan.lam)
    top, bottom, left, right = plan.pixels(inputs.shape[2], inputs.shape[3])
    mixed = inputs.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed


def _span(centre: float, side: float, size: int) -> tuple[int, int]:
    """Where a box lies along one side of the image, cut off at the border, as in the paper's own code."""
    middle, half = int(centre * size), int(side * size) // 2
    return max(middle - half, 0), min(middle + half, size)


def _uniforms(key: int) -> Iterator[float]:
    """Endless numbers in (0, 1), as a function of the key."""
    for index in itertools.count():
        yield ((mix(key, index) >> 12) + 0.5) * 2.0**-52


def _beta(alpha: float, numbers: Iterator[float]) -> float:
    """A draw from Beta(alpha, alpha): the share of one of two gamma variables in their sum, by logarithms, as both vanish at a small alpha."""
    difference = _log_gamma_draw(alpha, numbers) - _log_gamma_draw(alpha, numbers)
    return 1 / (1 + math.exp(-difference)) if difference > -700 else 0.0


def _log_gamma_draw(alpha: float, numbers: Iterator[float]) -> float:
    """The logarithm of a draw from Gamma(alpha, 1) (Marsaglia and Tsang 2000; below 1 as the draw at alpha + 1 times u^(1 / alpha))."""
    if alpha < 1:
        return _log_gamma_draw(alpha + 1, numbers) + math.log(next(numbers)) / alpha
    d = alpha - 1 / 3
    while True:
        normal = math.sqrt(-2 * math.log(next(numbers))) * math.cos(2 * math.pi * next(numbers))
        v = (1 + normal / math.sqrt(9 * d)) ** 3
        if v > 0 and math.log(next(numbers)) < normal * normal / 2 + d - d * v + d * math.log(v):
            return math.log(d) + math.log(v)
