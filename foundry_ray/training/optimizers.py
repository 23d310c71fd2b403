"""Which update rule `train.optimizer` names, over whole parameters or over the flat pieces of them that a rank holds.

Decides: the names there are, which of them may be sharded, which weights decay and are penalised (matrices and kernels; biases and norms
are not). Leaves the arithmetic to `rules`, and to torch through `wrapped`. Importing this module imports no torch.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

from foundry_ray.config import IMPORT, TrainConfig
from foundry_ray.errors import ConfigError, OutOfRange
from foundry_ray.plugins import load_import

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from foundry_ray.training.rules import ParamGroup, UpdateRule

OPTIMIZERS = ("adamw", "sgd", "lion", "adafactor")
ELEMENTWISE = frozenset({"adamw", "sgd", "lion"})
"""Each weight's step depends on that weight alone, so ZeRO 1 to 3 may shard them. The others look at whole matrices, or may."""


def check_optimizer(name: str, *, key: str = "train.optimizer") -> None:
    """See that a name means an optimizer, before anything starts. Imports the module of a user's own one.

    Raises:
        OutOfRange: There is no optimizer of this name.
        ConfigError: A user's own cannot be imported, or does not take what it will be given.
    """
    if name in OPTIMIZERS:
        return
    if not name.startswith(IMPORT):
        near = difflib.get_close_matches(name, OPTIMIZERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "set one of them, or `import:` and where your own is."
        message = f"{key} is {name!r}, wanted one of {', '.join(OPTIMIZERS)} or import:package.module:factory."
        raise OutOfRange(message, hint=hint, key=key, value=name)
    factory = load_import(name, what=key)
    try:
        inspect.signature(factory).bind([], lr=0.1, weight_decay=0.0)
    except TypeError as error:
        message = f"{key} is {name!r}, which takes other arguments ({error}), wanted a factory(param_groups, lr=..., weight_decay=...)."
        raise ConfigError(message, hint="wrap it in a function of that form.") from error


def param_groups(model: nn.Module, train: TrainConfig) -> tuple[ParamGroup, ...]:
    """The trainable parameters in two groups: those with two or more dimensions decay and are penalised, biases and norms are not."""
    from foundry_ray.training.rules import ParamGroup

    trainable = {name: param for name, param in model.named_parameters() if param.requires_grad}
    decayed = {name: param for name, param in trainable.items() if param.ndim > 1}
    kept = {name: param for name, param in trainable.items() if param.ndim <= 1}
    groups = (
        ParamGroup(params=decayed, weight_decay=train.weight_decay, l1=train.l1, l2=train.l2),
        ParamGroup(params=kept, weight_decay=0.0),
    )
    return tuple(group for group in groups if group.params)


def update_rule(model: nn.Module, train: TrainConfig) -> UpdateRule:
    """The rule that `train.optimizer` names, over the parameters of `model`: cheap to build where it is element-wise.

    Raises:
        OutOfRange: There is no optimizer of this name.
        ConfigError: A user's own cannot be imported, made or resumed.
    """
    groups = param_groups(model, train)
    if train.optimizer in ELEMENTWISE:
        return elementwise_rule(groups, train)
    from foundry_ray.training.wrapped import Wrapped

    params = {name: param for group in groups for name, param in group.params.items()}
    return Wrapped(_torch_optimizer(groups, train), params)


def elementwise_rule(groups: Sequence[ParamGroup], train: TrainConfig) -> UpdateRule:
    """The rule of an element-wise `train.optimizer` over groups of any tensors: parameters, or flat pieces of many of them."""
    from foundry_ray.training import rules

    if train.optimizer == "adamw":
        return rules.AdamW(groups, betas=train.betas)
    if train.optimizer == "sgd":
        return rules.MomentumSGD(groups, momentum=train.momentum)
    return rules.Lion(groups, betas=train.betas)


def _torch_optimizer(groups: tuple[ParamGroup, ...], train: TrainConfig) -> Optimizer:
    """Adafactor, or a user's own. Before each step the gradient of the penalties is added, by the keys `l1` and `l2` of its groups."""
    import torch

    torch_groups: list[dict[str, object]] = [{"params": list(group.params.values()), "weight_decay": group.weight_decay} for group in groups]
    is_own = train.optimizer != "adafactor"
    optimizer = _imported(torch_groups, groups, train) if is_own else torch.optim.Adafactor(torch_groups, lr=train.lr)
    if train.l1 or train.l2:
        _penalise(optimizer, groups)
    return optimizer


def _imported(torch_groups: list[dict[str, object]], groups: tuple[ParamGroup, ...], train: TrainConfig) -> Optimizer:
    """What a user's factory makes, if it is an optimizer of exactly the parameters that it was given."""
    import torch

    check_optimizer(train.optimizer)
    made = load_import(train.optimizer, what="train.optimizer")(torch_groups, lr=train.lr, weight_decay=train.weight_decay)
    if not isinstance(made, torch.optim.Optimizer):
        message = f"train.optimizer {train.optimizer!r} makes a {type(made).__name__}, wanted a torch.optim.Optimizer."
        raise ConfigError(message, hint="return the optimizer from the factory.")
    given = {param for group in groups for param in group.params.values()}
    taken = {param for group in made.param_groups for param in group["params"]}
    if given != taken:
        message = f"train.optimizer {train.optimizer!r} changes {len(given & taken)} of the {len(given)} parameters that it is given, wanted all."
        raise ConfigError(message, hint="to freeze a parameter, let the model set its requires_grad to False.")
    return made


def _penalise(optimizer: Optimizer, groups: tuple[ParamGroup, ...]) -> None:
    """Mark the groups that are penalised, and add the penalties' gradient before each step."""
    weights = {param: (group.l1, group.l2) for group in groups for param in group.params.values()}
    for group in optimizer.param_groups:
        found = {weights[param] for param in group["params"]}
        if len(found) > 1:
            message = f"the optimizer {type(optimizer).__name__} joins weights that are penalised with others, wanted the groups that it was given."
            raise ConfigError(message, hint="pass `param_groups` on as they are, or set `train.l1: 0` and `train.l2: 0`.")
        group["l1"], group["l2"] = found.pop() if found else (0.0, 0.0)
    optimizer.register_step_pre_hook(_add_penalties)


def _add_penalties(optimizer: Optimizer, _args: object, _kwargs: object) -> None:
    from foundry_ray.training.losses import penalize_

    for group in optimizer.param_groups:
        params = [param for param in group["params"] if param.grad is not None]
        penalize_(params, [param.grad for param in params], l1=group["l1"], l2=group["l2"])
