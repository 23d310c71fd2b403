"""A model of the user's own: `family: import:package.module:factory`, with `params` as the factory's keyword arguments.

    def factory(schema, **params) -> torch.nn.Module

The factory gets the schema of the data set (`ImageSchema` or `TokenSchema`) and gives a module that maps one tensor to logits: raw pixels
(float, 0..255, of shape (B, C, H, W)) to (B, classes), or token ids (int64, (B, T)) to (B, T, vocabulary). Inputs come as they are stored; a model
that holds a `foundry_ray.models.layers.Normalize` has it filled with the statistics of the training split. Random weights are drawn from torch's
generator, which is seeded. Weights may be shared between layers.

Decides: how such a model is made, described and made again. Its description is the import, the parameters and the schema: to load the model
is to import that module and call the factory, so load models only from stores that you trust, as you would run only code that you trust.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from foundry_ray.errors import ArtifactCorrupt, ConfigError, FoundryError, RecipeInfeasible
from foundry_ray.models.modes import evaluating
from foundry_ray.models.resized import Cuts, carry_out, cuts_of
from foundry_ray.plugins import load_import
from foundry_ray.types import FORMAT_VERSION, Json, Scalar, Schema, canonical_sha256, from_json, to_json

_KEY = "teacher.model.family"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Description:
    """What makes the model again; `shapes_sha256` tells whether the factory still makes the same one, `cuts` what was taken out of it since."""

    family: str
    params: Mapping[str, Json]
    schema: Schema
    shapes_sha256: str
    cuts: Cuts | None = None
    format_version: int = FORMAT_VERSION


def check_factory(text: str, params: Mapping[str, Json]) -> Callable[..., object]:
    """The factory, where it can be imported and takes these parameters. Raises ConfigError."""
    factory = load_import(text, what=_KEY)
    try:
        inspect.signature(factory).bind(None, **params)
    except TypeError as error:
        names = ", ".join(params) or "no parameters"
        message = f"{_KEY} is {text!r}, which cannot be called with a schema and {names}: {error}."
        raise ConfigError(message, hint="correct `teacher.model.params`: they are the factory's keyword arguments.") from error
    except ValueError:  # something built in, which does not say what it takes
        return factory
    return factory


class ImportedFamily:
    """The models that one factory makes. See the module's docstring.

    Args:
        text: `import:package.module:factory`.
    """

    def __init__(self, text: str) -> None:
        self.name = text

    def build(self, schema: Schema, params: Mapping[str, Json]) -> nn.Module:
        """What the factory gives. Raises ConfigError where it fails, or gives no module."""
        model = self._call(schema, params)
        description = _Description(family=self.name, params=dict(params), schema=schema, shapes_sha256=_shapes_sha256(model))
        for name, value in (("family", self.name), ("description", description)):
            setattr(model, name, value)
        return model

    def describe(self, model: nn.Module) -> Json:
        """The import, its parameters, the schema, and what was cut out since. Raises RecipeInfeasible where that is not all that was changed."""
        description = getattr(model, "description", None)
        assert isinstance(description, _Description), "`build` has put it there"
        if _shapes_sha256(model) != description.shapes_sha256:
            description = replace(description, cuts=self._cuts(model, description))
        return _without_nothing(to_json(description))

    def _cuts(self, model: nn.Module, description: _Description) -> Cuts:
        """How to cut the factory's model alike; proven by one that answers as `model` does."""
        with torch.random.fork_rng(devices=[]):
            cuts = cuts_of(model, self._call(description.schema, description.params))
            again = self._call(description.schema, description.params)
        try:
            carry_out(again, cuts)
            if _answers_alike(model, again, description.schema):
                return cuts
        except (AttributeError, RuntimeError, ValueError, TypeError, IndexError):
            pass
        reason = f"tensors of {self.name} have changed their shapes, and its factory's model could not be cut alike."
        raise _infeasible(reason, "leave `prune` out.")

    def rebuild(self, description: Json) -> nn.Module:
        """The model of a description, with the factory's own weights.

        Raises:
            ArtifactCorrupt: The description does not hang together, or the factory makes another model now.
            ConfigError: The module cannot be imported here, or the factory fails.
        """
        known = from_json(_Description, description, what=f"{self.name} architecture")
        model = self.build(known.schema, known.params)
        if _shapes_sha256(model) != known.shapes_sha256:
            message = f"{self.name} gives tensors of other shapes than when this model was trained."
            raise ArtifactCorrupt(message, hint="put the module back as it was, or train again: `--fresh teacher`.", key=self.name)
        if known.cuts is not None:
            carry_out(model, known.cuts)
        return model

    def shrink(self, model: nn.Module, schema: Schema, params: Mapping[str, Scalar]) -> nn.Module:
        """Raises RecipeInfeasible: nobody but its author knows a smaller member."""
        hint = "take `width` and `depth` out of the search space; quantize and distil need no family."
        raise _infeasible(f"shrink: {self.name} is an imported model, which has no width and depth to make smaller.", hint)

    def _call(self, schema: Schema, params: Mapping[str, Json]) -> nn.Module:
        """The factory is the user's code and may raise anything, so all of it is caught and told."""
        factory = check_factory(self.name, params)
        try:
            model = factory(schema, **params)
        except FoundryError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            last_line = traceback.format_exception_only(error)[-1].strip()
            message = f"{_KEY} is {self.name!r}, but calling it fails at {frame.filename}:{frame.lineno} with {last_line}, wanted a torch module."
            raise ConfigError(message, hint="mend the factory, or `teacher.model.params`.") from error
        if not isinstance(model, nn.Module):
            raise ConfigError(f"{_KEY} is {self.name!r}, which gives a {type(model).__name__}, wanted a torch module.", hint="return the model.")
        return model


def _without_nothing(description: Json) -> Json:
    """A description of what nothing was cut out of is as it always was."""
    assert isinstance(description, dict), "a description is an object"
    return {name: value for name, value in description.items() if name != "cuts" or value is not None}


def _answers_alike(model: nn.Module, again: nn.Module, schema: Schema) -> bool:
    """Whether a model with the same weights gives the same for a blank input."""
    parameter = next(model.parameters())
    again = again.to(parameter.device).eval()
    again.load_state_dict(model.state_dict())
    dtype = parameter.dtype if schema.kind == "images" else torch.int64
    blank = torch.zeros((1, *schema.shape), device=parameter.device, dtype=dtype)
    with torch.no_grad(), evaluating(model):
        return torch.allclose(model(blank), again(blank), equal_nan=True)


def _shapes_sha256(model: nn.Module) -> str:
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return canonical_sha256(cast(Json, shapes))


def _infeasible(reason: str, hint: str) -> RecipeInfeasible:
    return RecipeInfeasible(reason, hint=hint, reason=reason)
