"""Model families by name, sized by width and depth, and their form on disk: a JSON architecture plus safetensors.

Decides: how a family is found, built, described and rebuilt. Leaves to others: training, compression, export. Importing this
package imports no torch.

Every model takes inputs as they are stored: images as float tensors of raw pixels (0..255), which the shipped families normalise inside with
the statistics of the training split; or token ids, of which families classify whole rows. `import:package.module:factory` brings any other model
(`imported` says what it must be).
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING

from foundry_ray.config import ModelConfig
from foundry_ray.errors import ArtifactCorrupt, ConfigError, OutOfRange
from foundry_ray.models.sizes import UNSIZED, check_size
from foundry_ray.plugins import IMPORT, Plugins
from foundry_ray.protocols import ArtifactStore, ModelFamily
from foundry_ray.schemas import images_only
from foundry_ray.types import Json, ModelArtifact, Preprocessing, Schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = [
    "build",
    "check",
    "describe",
    "get",
    "load_model",
    "load_tensors",
    "names",
    "rebuild",
    "register",
    "tensors_from_bytes",
    "tensors_to_bytes",
]

_SHIPPED = {name: f"foundry_ray.models.{name}" for name in ("cnn", "resnet", "mlp", "rnn", "transformer", "pretrained")}
_ON_IMAGES = ("cnn", "resnet")
_REPLACED = "replaced"
_families: Plugins[ModelFamily] = Plugins("model family", "foundry_ray.models", _SHIPPED)
register = _families.register
names = _families.names


def get(name: str) -> ModelFamily:
    """The family of this name, or of this import. Raises ConfigError that lists the names there are."""
    if not name.startswith(IMPORT):
        return _families.get(name)
    from foundry_ray.models.imported import ImportedFamily

    return ImportedFamily(name)


def check(config: ModelConfig, schema: Schema | None = None) -> None:
    """What can be refused before a model is built: imports a user's module, and builds nothing.

    Args:
        config: The family and its parameters.
        schema: Of the data set, where it is known.

    Raises:
        ConfigError: There is no such family, it does not take these inputs, the user's module fails while it is imported, or the factory does not
            take these parameters.
    """
    if config.family.startswith(IMPORT):
        from foundry_ray.models.imported import check_factory

        check_factory(config.family, config.params)
    elif config.family not in names():
        known = ", ".join(names())
        hint = "name one of these under `teacher.model.family`, or your own as import:package.module:factory."
        message = f"teacher.model.family is {config.family!r}, but must be one of {known}."
        raise OutOfRange(message, hint=hint, key="teacher.model.family", value=config.family)
    elif config.family in _SHIPPED:
        check_size(config.family, _params(config))
        _check_unread(config)
        if config.family in _ON_IMAGES and schema is not None:
            images_only(schema, what=f"model family {config.family}")


def _check_unread(config: ModelConfig) -> None:
    """Refuse sizes that nobody reads."""
    fields = ModelConfig.model_fields
    sizes = [f"{name} {value}" for name in ("width", "depth") if (value := getattr(config, name)) != fields[name].default]
    if config.family in UNSIZED and sizes:
        message = f"teacher.model is of family {config.family} with {' and '.join(sizes)}, but a checkpoint brings its own size."
        raise ConfigError(message, hint="leave them out; `shrink` in the search space makes it smaller.")


def build(config: ModelConfig, schema: Schema, preprocessing: Preprocessing | None, *, seed: int) -> nn.Module:
    """A freshly initialised model; one of images normalises with `preprocessing`. Equal seeds give equal weights; the global seed stays as it is.

    Raises:
        ConfigError: The family does not exist, cannot have this size, or does not take such inputs; a user's factory fails.
    """
    import torch

    from foundry_ray.models.layers import Normalize, set_preprocessing

    is_imported = config.family.startswith(IMPORT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get(config.family).build(schema, _params(config))
    if preprocessing is not None and (not is_imported or any(isinstance(module, Normalize) for module in model.modules())):
        set_preprocessing(model, preprocessing)
    return model


def _params(config: ModelConfig) -> Mapping[str, Json]:
    """What a family is built with."""
    has_own_size = config.family.startswith(IMPORT) or config.family in UNSIZED
    return config.params if has_own_size else {"width": config.width, "depth": config.depth, **config.params}


def describe(model: nn.Module) -> Json:
    """The architecture of a model as JSON, read from its tensors, so that it is true after pruning, trimming and factorising too."""
    family = getattr(model, "family", None)
    if not isinstance(family, str):
        known = ", ".join(names())
        raise ConfigError(f"{type(model).__name__} belongs to no model family, wanted one of {known}.", hint="build it with `models.build`.")
    from foundry_ray.models.replaced import replacements

    description, replaced = get(family).describe(model), replacements(model)
    assert isinstance(description, dict), "a description is an object"
    return {**description, _REPLACED: replaced} if replaced else description


def rebuild(description: Json) -> nn.Module:
    """The model that `describe` described, with fresh weights. Nothing is unpickled.

    Raises:
        ArtifactCorrupt: The description does not hang together.
        ConfigError: Its family is not installed.
    """
    if not isinstance(description, dict) or not isinstance(description.get("family"), str):
        raise ArtifactCorrupt("the architecture names no family, wanted the JSON that `models.describe` gives.", hint="make the model again.")
    from foundry_ray.models.replaced import replace_all

    model = get(typing.cast(str, description["family"])).rebuild({name: value for name, value in description.items() if name != _REPLACED})
    replace_all(model, typing.cast("list[Json]", description.get(_REPLACED, [])))
    return model


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as safetensors; equal tensors give equal bytes, whatever their memory format or device.

    A tensor that stands under several names is written once, under the first.
    """
    from safetensors.torch import save

    aliases = _aliases(tensors)
    return save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items() if name not in aliases})


def tensors_from_bytes(data: bytes) -> dict[str, Tensor]:
    """The tensors that `tensors_to_bytes` wrote, on the CPU. Raises ArtifactCorrupt."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise ArtifactCorrupt(f"{len(data)} bytes are no safetensors file: {error}.", hint="make the model again: `--fresh STAGE`.") from error


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named tensors into a model, all of them and nothing else.

    A weight that layers share may come under any one of its names, as `named_parameters` has it. Buffers that the model makes itself
    (not persistent) may be among the tensors, and are left as they are.

    Raises:
        RuntimeError: A name is missing or unknown, or a shape differs: as `load_state_dict` raises it.
    """
    own = model.state_dict()
    derived = {name for name, _ in model.named_buffers(remove_duplicate=False)} - own.keys()
    given = {name: tensor for name, tensor in tensors.items() if name not in derived}
    missing, unknown = model.load_state_dict(given, strict=False)
    known = {_storage(own[name]) for name in given if name in own}
    lost = [name for name in missing if _storage(own[name]) not in known]
    if lost or unknown:
        raise RuntimeError(f"{type(model).__name__}: missing {', '.join(lost[:3]) or 'none'}; unknown {', '.join(unknown[:3]) or 'none'}")


def _aliases(tensors: Mapping[str, Tensor]) -> set[str]:
    """The names whose tensor stands under an earlier name already."""
    first: dict[tuple[object, ...], str] = {}
    return {name for name, tensor in tensors.items() if first.setdefault(_storage(tensor), name) != name}


def _storage(tensor: Tensor) -> tuple[object, ...]:
    """Where a tensor lies and how it is read; an empty one is like no other."""
    place = tensor.data_ptr() if tensor.numel() else id(tensor)
    return (str(tensor.device), place, tensor.dtype, tuple(tensor.shape), tensor.stride())


def load_model(store: ArtifactStore, artifact: ModelArtifact) -> nn.Module:
    """The model of an artifact, in eval mode, on the CPU. Raises ArtifactNotFound or ArtifactCorrupt."""
    import json

    from foundry_ray.artifacts.manifests import read_file

    key = artifact.artifact.key
    try:
        model = rebuild(json.loads(read_file(store, key, "architecture.json")))
        load_tensors(model, tensors_from_bytes(read_file(store, key, "model.safetensors")))
    except (ValueError, RuntimeError) as error:
        message = f"{key}: weights and architecture do not fit: {error}."
        raise ArtifactCorrupt(message, hint="make the model again: `--fresh STAGE`.", key=key) from error
    return model.eval()
