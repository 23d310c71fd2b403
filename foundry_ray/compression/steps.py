"""Finding the implementation of a recipe step by its kind."""

from __future__ import annotations

from collections.abc import Mapping

from foundry_ray.config import Section, parse_params
from foundry_ray.errors import ConfigError, RecipeInfeasible
from foundry_ray.plugins import Plugins
from foundry_ray.protocols import Compressor
from foundry_ray.types import Scalar

_BUILTIN = {
    kind: f"foundry_ray.compression.{kind}"
    for kind in ("trim_vocabulary", "shrink", "factorize", "prune", "sparsify", "distil", "quantize", "runtime")
}
SHIPPED = frozenset(_BUILTIN)
"""The kinds that come with this package."""
_compressors: Plugins[Compressor] = Plugins("recipe step", "foundry_ray.compressors", _BUILTIN)
register = _compressors.register
names = _compressors.names


def get(kind: str) -> Compressor:
    """The implementation of a step kind. Raises RecipeInfeasible that lists the kinds there are."""
    try:
        return _compressors.get(kind)
    except ConfigError as error:
        raise RecipeInfeasible(f"recipe: {error.message}", hint=error.hint, reason=f"no step {kind!r}") from error


def checked(params_type: type[Section], params: Mapping[str, Scalar], *, kind: str) -> Mapping[str, Scalar]:
    """A step's parameters with defaults filled in and types settled, so that equal steps hash equal. Raises RecipeInfeasible."""
    try:
        return parse_params(params_type, params, where=f"recipe step {kind}").model_dump()
    except ConfigError as error:
        raise RecipeInfeasible(error.message, hint=error.hint, recipe=kind, reason=error.message) from error
