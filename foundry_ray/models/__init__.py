"""Model families by name, sized by width and depth, and their form on disk: a JSON architecture plus safetensors.

Decides: how a family is found, built, described and rebuilt. Leaves to others: training, compression, export. Importing this
package imports no torch.

Every model takes float tensors of raw pixels (0..255) and normalises inside, with the statistics of the training split.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING

from foundry_ray.config import ModelConfig
from foundry_ray.errors import ArtifactCorrupt, ConfigError
from foundry_ray.plugins import Plugins
from foundry_ray.protocols import ArtifactStore, ModelFamily
from foundry_ray.types import ImageSchema, Json, ModelArtifact, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = ["build", "describe", "get", "load_model", "names", "rebuild", "register", "tensors_from_bytes", "tensors_to_bytes"]

_families: Plugins[ModelFamily] = Plugins(
    "model family", "foundry_ray.models", {"cnn": "foundry_ray.models.cnn", "resnet": "foundry_ray.models.resnet"}
)
register = _families.register
get = _families.get
names = _families.names


def build(config: ModelConfig, schema: ImageSchema, preprocessing: Preprocessing, *, seed: int) -> nn.Module:
    """A freshly initialised model that normalises with `preprocessing`. Equal seeds give equal weights; the global seed stays as it is.

    Raises:
        ConfigError: The family does not exist or cannot have this size.
    """
    import torch

    from foundry_ray.models.layers import set_preprocessing

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get(config.family).build(schema, {"width": config.width, "depth": config.depth})
    set_preprocessing(model, preprocessing)
    return model


def describe(model: nn.Module) -> Json:
    """The architecture of a model as JSON, read from its tensors, so that it is true after pruning too."""
    family = getattr(model, "family", None)
    if not isinstance(family, str):
        known = ", ".join(names())
        raise ConfigError(f"{type(model).__name__} belongs to no model family, wanted one of {known}.", hint="build it with `models.build`.")
    return get(family).describe(model)


def rebuild(description: Json) -> nn.Module:
    """The model that `describe` described, with fresh weights. Nothing is unpickled.

    Raises:
        ArtifactCorrupt: The description does not hang together.
        ConfigError: Its family is not installed.
    """
    if not isinstance(description, dict) or not isinstance(description.get("family"), str):
        raise ArtifactCorrupt("the architecture names no family, wanted the JSON that `models.describe` gives.", hint="make the model again.")
    return get(typing.cast(str, description["family"])).rebuild(description)


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as safetensors; equal tensors give equal bytes, whatever their memory format or device."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})


def tensors_from_bytes(data: bytes) -> dict[str, Tensor]:
    """The tensors that `tensors_to_bytes` wrote, on the CPU. Raises ArtifactCorrupt."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise ArtifactCorrupt(f"{len(data)} bytes are no safetensors file: {error}.", hint="make the model again: `--fresh STAGE`.") from error


def load_model(store: ArtifactStore, artifact: ModelArtifact) -> nn.Module:
    """The model of an artifact, in eval mode, on the CPU. Raises ArtifactNotFound or ArtifactCorrupt."""
    import json

    from foundry_ray.artifacts.manifests import read_file

    key = artifact.artifact.key
    try:
        model = rebuild(json.loads(read_file(store, key, "architecture.json")))
        model.load_state_dict(tensors_from_bytes(read_file(store, key, "model.safetensors")))
    except (ValueError, RuntimeError) as error:
        message = f"{key}: weights and architecture do not fit: {error}."
        raise ArtifactCorrupt(message, hint="make the model again: `--fresh STAGE`.", key=key) from error
    return model.eval()
