"""Search spaces: the YAML grammar of `search_spaces/` (its README is the grammar) made into a checked `SearchSpace`.

Decides what a space may say and whether it can be sampled. Leaves proposing values to `sampler`, and what a parameter does to
`compression.recipes`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

from foundry_ray import assets
from foundry_ray.config import ObjectiveConfig, TrainConfig, read_yaml, validate
from foundry_ray.errors import RecipeInfeasible, SearchSpaceError, UnknownKey
from foundry_ray.search import constraints as limits
from foundry_ray.search import points, relations
from foundry_ray.search.points import in_order as in_order
from foundry_ray.search.points import is_active as is_active
from foundry_ray.types import CompressionRecipe, Objective, Param, Scalar, SearchSpace

if TYPE_CHECKING:
    from foundry_ray.config import SearchConfig

_SECTIONS = ("params", "relations", "objectives", "constraints")
_RANGES = ("float", "int")
_KINDS = (*_RANGES, "choice")
_PARAM_KEYS = (*_KINDS, "log", "step", "when")
_NOT_SEARCHED = ("epochs", "early_stopping_epochs")
_LONG = 4
"""Letters of a name that is looked for in descriptions: `learning_rate` is found in that of `lr`."""
_OBJECTIVES = (
    ObjectiveConfig(metric="accuracy", mode="max"),
    ObjectiveConfig(metric="latency_p50_ms", mode="min"),
    ObjectiveConfig(metric="size_bytes", mode="min"),
)


def load_space(name_or_path: str, config: SearchConfig) -> SearchSpace:
    """Read a space by the name of a shipped file or by path. What the pipeline says of objectives and constraints wins.

    Raises:
        UnknownKey: A key that the grammar has not, or a metric that no trial reports; the nearest one is named.
        RecipeInfeasible: A parameter goes beyond what its recipe step takes.
        SearchSpaceError: A space that cannot be sampled.
        ConfigError: There is no such file, or it is not YAML.
    """
    path = assets.find("search_spaces", name_or_path, key="search.space")
    document = read_yaml(path)
    where = path.name
    _check_keys(document, _SECTIONS, where=where)
    params = _params(document.get("params"), where=where)
    space = SearchSpace(
        params=params,
        relations=_relations(document.get("relations", []), params, where=where),
        objectives=_objectives(document.get("objectives"), config, where=where),
        constraints=_constraints(document.get("constraints"), config, where=where),
    )
    points.check_relations(space, where=where)
    check_recipes(space, where=where)
    return space


def check_recipes(space: SearchSpace, *, where: str) -> None:
    """Make the recipes of points at the rim and inside, so that a parameter that nothing understands is an error before anything starts.

    Points that no trial can have, because they break a relation, are left out.
    """
    from foundry_ray.compression import source_of
    from foundry_ray.training.mixing import check_mixing
    from foundry_ray.training.optimizers import check_optimizer

    for point in points.probes(space):
        hyperparams, recipe = _split(point, where=where)
        for name in hyperparams:
            _check_hyperparam(name, where=where)
        train = validate(TrainConfig, dict(hyperparams), where=f"{where}: params")
        check_optimizer(train.optimizer, key=f"{where}: params.optimizer")
        check_mixing(train, has_images=True, distils=source_of(recipe.step("distil")) == "cached")


def _split(point: Mapping[str, Scalar], *, where: str) -> tuple[Mapping[str, Scalar], CompressionRecipe]:
    """Hyperparameters and recipe. Raises RecipeInfeasible in the words of the space, where the recipe's own names are others."""
    from foundry_ray.compression import recipe_from_params
    from foundry_ray.compression.recipes import PLAIN_NAMES

    try:
        return recipe_from_params(point)
    except RecipeInfeasible as error:
        names = [f"`{name}`" for name, (kind, _) in PLAIN_NAMES.items() if kind == error.facts.get("recipe")]
        hint = f"a space sets this step by {' and '.join(names)}; search_spaces/README.md says what they may be." if names else error.hint
        raise RecipeInfeasible(f"{where}: params: {error.message}", hint=hint, **error.facts) from error


def _check_hyperparam(name: str, *, where: str) -> None:
    """A name that is no recipe's is a key of training; but not one that ends a trial: trials are compared at equal epochs."""
    from foundry_ray.compression.recipes import PLAIN_NAMES

    if name in _NOT_SEARCHED:
        message = f"{where}: params.{name} is to be searched, wanted one number of epochs for all trials: they are compared at equal ones."
        raise SearchSpaceError(message, hint=f"remove `{name}`, and set `student.epochs` and `search.scheduler.rungs`.", param=name)
    known = [one for one in TrainConfig.model_fields if one not in _NOT_SEARCHED]
    if name in known:
        return
    near = difflib.get_close_matches(name, [*known, *PLAIN_NAMES], n=1, cutoff=0.6)
    if not near and len(name) >= _LONG:
        near = [one for one in known if name.replace("_", " ") in (TrainConfig.model_fields[one].description or "").lower()]
    hint = f"did you mean `{near[0]}`?" if near else "name one of these; a plugin's step is set by `step.parameter`."
    message = f"{where}: params.{name} is read by nothing; there are {', '.join((*known, *PLAIN_NAMES))}."
    raise UnknownKey(message, hint=hint, key=name, nearest=near[0] if near else None)


def _params(section: object, *, where: str) -> tuple[Param, ...]:
    if not isinstance(section, dict) or not section:
        raise SearchSpaceError(
            f"{where}: params is {section!r}, wanted at least one parameter.", hint="write `params: {lr: {float: [0.001, 0.01], log: true}}`."
        )
    params = tuple(_param(str(name), body, where=where) for name, body in section.items())
    by_name = {param.name: param for param in params}
    for param in params:
        _check_when(param, by_name, where=where)
    points.in_order(params, where=where)
    return params


def _param(name: str, body: object, *, where: str) -> Param:
    place = f"{where}: params.{name}"
    if not isinstance(body, dict):
        raise SearchSpaceError(f"{place} is {body!r}, wanted a kind with its range.", hint=f"write `{name}: {{float: [low, high]}}`.", param=name)
    _check_keys(body, _PARAM_KEYS, where=place)
    kinds = [kind for kind in _KINDS if kind in body]
    if len(kinds) != 1:
        raise SearchSpaceError(
            f"{place} has {' and '.join(kinds) or 'no kind'}, wanted exactly one of {', '.join(_KINDS)}.", hint="keep one of them.", param=name
        )
    when = _when(body.get("when", {}), place, name)
    if kinds[0] == "choice":
        return _choice(name, body, when, place)
    return _range(name, cast(Literal["float", "int"], kinds[0]), body, when, place)


def _choice(name: str, body: Mapping[str, object], when: Mapping[str, tuple[Scalar, ...]], place: str) -> Param:
    extra = [key for key in ("log", "step") if key in body]
    if extra:
        raise SearchSpaceError(
            f"{place} has {extra[0]}, which a choice cannot have.", hint=f"remove `{extra[0]}`, or make it a float or an int.", param=name
        )
    choices = _scalars(body["choice"], place, name)
    if len(set(map(repr, choices))) != len(choices):
        raise SearchSpaceError(f"{place} has the same choice twice: {list(choices)}.", hint="name each once.", param=name)
    return Param(name=name, kind="categorical", choices=choices, when=when)


def _range(name: str, kind: Literal["float", "int"], body: Mapping[str, object], when: Mapping[str, tuple[Scalar, ...]], place: str) -> Param:
    low, high = _bounds(body[kind], kind, place, name)
    log, step = body.get("log", False), body.get("step")
    if not isinstance(log, bool):
        raise SearchSpaceError(f"{place}.log is {log!r}, wanted true or false.", hint="`log: true` samples the exponent evenly.", param=name)
    if log and low <= 0:
        raise SearchSpaceError(
            f"{place} is logarithmic from {low:g}, but must begin above 0.", hint="raise the low end, or remove `log: true`.", param=name
        )
    if step is not None and (isinstance(step, bool) or not isinstance(step, (int, float)) or step <= 0 or (kind == "int" and step != int(step))):
        raise SearchSpaceError(
            f"{place}.step is {step!r}, wanted {'a whole number' if kind == 'int' else 'a number'} above 0.", hint="remove it.", param=name
        )
    if log and step is not None:
        raise SearchSpaceError(f"{place} has log and step, wanted at most one of them.", hint="remove `step`.", param=name)
    if step is not None and low < high and step > high - low:
        message = f"{place}.step is {step:g}, but the range is {high - low:g} wide: {low:g} would be its only value."
        raise SearchSpaceError(message, hint="lower `step`, or remove it.", param=name)
    return Param(name=name, kind=kind, low=low, high=high, log=log, step=None if step is None else float(step), when=when)


def _bounds(bounds: object, kind: str, place: str, name: str) -> tuple[float, float]:
    pair: list[object] = bounds if isinstance(bounds, list) else []
    numbers = [float(one) for one in pair if isinstance(one, (int, float)) and not isinstance(one, bool) and math.isfinite(one)]
    if len(pair) != 2 or len(numbers) != 2 or (kind == "int" and any(one != int(one) for one in numbers)):
        wanted = "[low, high] of whole numbers" if kind == "int" else "[low, high] of finite numbers"
        hint = f"write `{name}: {{{kind}: {'[1, 8]' if kind == 'int' else '[0.001, 0.1]'}}}`; YAML reads 1e-3 as text, 1.0e-3 as a number."
        raise SearchSpaceError(f"{place}.{kind} is {bounds!r}, wanted {wanted}.", hint=hint, param=name)
    low, high = numbers
    if low > high:
        raise SearchSpaceError(f"{place} goes from {low:g} down to {high:g}, wanted low <= high.", hint="swap the two.", param=name)
    return low, high


def _when(section: object, place: str, name: str) -> dict[str, tuple[Scalar, ...]]:
    if not isinstance(section, dict):
        raise SearchSpaceError(
            f"{place}.when is {section!r}, wanted a mapping of parameter to values.", hint="write `when: {other: [value]}`.", param=name
        )
    return {str(other): _scalars(values, f"{place}.when.{other}", name) for other, values in section.items()}


def _scalars(values: object, place: str, name: str) -> tuple[Scalar, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(one, (bool, int, float, str)) for one in values):
        hint = f"write `[{values}]`." if isinstance(values, (bool, int, float, str)) else "write `[8, 32]`: numbers, words, true or false."
        raise SearchSpaceError(f"{place} is {values!r}, wanted a list of values.", hint=hint, param=name)
    return tuple(values)


def _check_when(param: Param, by_name: Mapping[str, Param], *, where: str) -> None:
    for other, values in param.when.items():
        if other not in by_name:
            near = difflib.get_close_matches(other, by_name, n=1, cutoff=0.3)
            hint = f"did you mean `{near[0]}`?" if near else f"parameters here: {', '.join(by_name)}."
            raise SearchSpaceError(
                f"{where}: params.{param.name}.when names {other}, which is no parameter of this space.", hint=hint, param=param.name
            )
        never = [value for value in values if not _can_be(by_name[other], value)]
        if never:
            hint = f"{other} can be {list(points.ends(by_name[other]))}."
            raise SearchSpaceError(
                f"{where}: params.{param.name}.when wants {other} to be {never[0]!r}, which it never is.", hint=hint, param=param.name
            )


def _can_be(param: Param, value: Scalar) -> bool:
    if param.kind == "categorical":
        return value in param.choices
    assert param.low is not None
    assert param.high is not None
    return isinstance(value, (int, float)) and param.low <= value <= param.high


def _relations(section: object, params: Sequence[Param], *, where: str) -> tuple[str, ...]:
    if not isinstance(section, list) or not all(isinstance(one, str) for one in section):
        raise SearchSpaceError(
            f"{where}: relations is {section!r}, wanted a list of texts.", hint='write `relations: ["width * depth <= 64"]`.', param=None
        )
    return tuple(relations.parse(one, where=where, params=params).text for one in section)


def _objectives(section: object, config: SearchConfig, *, where: str) -> tuple[Objective, ...]:
    """The pipeline's, else the space's own, which are read in any case: a wrong line is wrong for whoever uses the file next."""
    own = None if section is None else _own_objectives(section, where=where)
    if config.objectives is not None:
        return _checked_objectives(config.objectives, where="search.objectives")
    return own or _checked_objectives(_OBJECTIVES, where=where)


def _own_objectives(section: object, *, where: str) -> tuple[Objective, ...]:
    if not isinstance(section, list) or not section:
        raise SearchSpaceError(f"{where}: objectives is {section!r}, wanted a list.", hint="write `objectives: [{metric: accuracy, mode: max}]`.")
    return _checked_objectives([validate(ObjectiveConfig, one, where=f"{where}: objectives") for one in section], where=where)


def _checked_objectives(wanted: Sequence[ObjectiveConfig], *, where: str) -> tuple[Objective, ...]:
    for one in wanted:
        limits.check_metric(one.metric, where=where)
        if one.threshold is not None:
            what = f"{where}: the threshold {one.threshold:g} of {one.metric}"
            limits.check_reachable(one.metric, ">=" if one.mode == "max" else "<=", one.threshold, what=what)
    if len({one.metric for one in wanted}) != len(wanted):
        raise SearchSpaceError(f"{where}: an objective is named twice: {[one.metric for one in wanted]}.", hint="name each metric once.")
    return tuple(Objective(metric=one.metric, mode=one.mode, threshold=one.threshold) for one in wanted)


def _constraints(section: object, config: SearchConfig, *, where: str) -> tuple[str, ...]:
    """As `_objectives`."""
    if section is not None and not isinstance(section, list):
        raise SearchSpaceError(f"{where}: constraints is {section!r}, wanted a list.", hint='write `constraints: ["num_params <= 80000"]`.')
    own = limits.parse_all([str(text) for text in section or ()], where=where)
    return tuple(map(str, own if config.constraints is None else limits.parse_all(config.constraints, where="search.constraints")))


def _check_keys(section: Mapping[str, object], valid: Sequence[str], *, where: str) -> None:
    for key in section:
        if key not in valid:
            near = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.3)
            hint = f"did you mean `{near[0]}`?" if near else f"valid keys here: {', '.join(valid)}."
            nearest = near[0] if near else None
            raise UnknownKey(f"{where}: {key} is no key here; there are {', '.join(valid)}.", hint=hint, key=str(key), nearest=nearest)
