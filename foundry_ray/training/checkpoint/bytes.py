"""The state of a loop in one process as bytes and back, bit for bit: the checkpoint of a trial, small enough for one object.

A safetensors file with the document in its metadata. Nothing in it is executed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from foundry_ray.errors import ArtifactCorrupt, TrainingError
from foundry_ray.training.state import LoopState
from foundry_ray.types import Json, canonical_bytes, parse_json, to_json

if TYPE_CHECKING:
    from torch import Tensor

_DOCUMENT = "document"
_HEADER_BYTES = 8
_HINT = "train again: `--fresh STAGE`."


def to_bytes(state: LoopState) -> bytes:
    """The whole state of a loop that has one rank. Raises TrainingError where its document holds a number that is not finite."""
    from safetensors.torch import save

    try:
        document = canonical_bytes(to_json(state.document)).decode()
    except ValueError as error:
        raise TrainingError(f"the state of the loop holds a number that is not finite: {error}.", hint="a metric is NaN.") from error
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in _named(state).items()}
    return save(tensors, metadata={_DOCUMENT: document})


def from_bytes(data: bytes, state: LoopState) -> dict[str, Json]:
    """Write what `to_bytes` gave into the live tensors of a loop of the same job.

    Returns:
        The document.

    Raises:
        ArtifactCorrupt: The bytes are none of `to_bytes`, or of another model or optimizer. Nothing was written.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        saved = load(data)
    except SafetensorError as error:
        raise ArtifactCorrupt(f"the {len(data)} bytes of a trial's state are no safetensors file: {error}.", hint=_HINT) from error
    document = _document(data)
    live = _named(state)
    for name in sorted(live.keys() | saved.keys()):
        if name not in live or name not in saved or saved[name].shape != live[name].shape:
            got, wanted = (tuple(held[name].shape) if name in held else None for held in (saved, live))
            raise ArtifactCorrupt(f"the state of a trial holds {name} of shape {got}, wanted {wanted}.", hint=_HINT)
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])
    return document


def _named(state: LoopState) -> dict[str, Tensor]:
    fragments = {f"{fragment.slot}/{fragment.name}/{fragment.start}": fragment.tensor for fragment in state.fragments}
    return {**fragments, **{f"own/{name}": tensor for name, tensor in state.own.items()}}


def _document(data: bytes) -> dict[str, Json]:
    """From the header, which `load` has checked: its length in eight bytes, and then JSON."""
    length = int.from_bytes(data[:_HEADER_BYTES], "little")
    metadata = json.loads(data[_HEADER_BYTES : _HEADER_BYTES + length]).get("__metadata__") or {}
    document = parse_json(metadata.get(_DOCUMENT, "").encode(), what="the state of a trial", hint=_HINT)
    if not isinstance(document, dict):
        raise ArtifactCorrupt(f"the document of a trial's state is {type(document).__name__}, wanted an object.", hint=_HINT)
    return document
