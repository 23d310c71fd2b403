"""Activation checkpointing (arXiv 1604.06174): what a block computes is dropped after the forward pass and computed again in the backward pass.

Decides which modules are blocks, for any model: those of one class that stand at least twice in its lists, the outermost ones. Names of
parameters stay, and so do the numbers: a block draws the same random numbers the second time, and batch-norm statistics count once.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def checkpoint_activations(model: nn.Module) -> int:
    """Let the repeated blocks of a model be computed twice, in place.

    Returns:
        How many blocks there are; with 0 the model trains as before.
    """
    blocks = repeated_blocks(model)
    for block in blocks:
        block.forward = functools.partial(_forward, block)
    return len(blocks)


def repeated_blocks(model: nn.Module) -> tuple[nn.Module, ...]:
    """The blocks that a model repeats: of one class, made of several modules; nested lists of layers where it has no such class."""
    members = [module for container in model.modules() if isinstance(container, _LISTS) for module in container.children() if _is_composed(module)]
    blocks = [module for module in members if not isinstance(module, _LISTS)]
    return _outermost(_repeated(blocks)) or _outermost(_repeated(members))


def _is_composed(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _repeated(modules: list[nn.Module]) -> list[nn.Module]:
    unique = list(dict.fromkeys(modules))
    counts = Counter(type(module) for module in unique)
    return [module for module in unique if counts[type(module)] > 1 and not isinstance(module, (nn.ModuleList, nn.ModuleDict))]


def _outermost(modules: list[nn.Module]) -> tuple[nn.Module, ...]:
    inner = {descendant for module in modules for descendant in module.modules() if descendant is not module}
    return tuple(module for module in modules if module not in inner)


def _forward(block: nn.Module, *args: object, **kwargs: object) -> object:
    """A block's own forward pass, with its activations dropped where there will be a backward pass."""
    if not torch.is_grad_enabled():
        return type(block).forward(block, *args, **kwargs)
    own_forward = functools.partial(type(block).forward, block, **kwargs)
    if torch.compiler.is_compiling() or next(block.buffers(), None) is None:  # a compiled second pass leaves buffers alone by itself
        return checkpoint(own_forward, *args, use_reentrant=False)
    return checkpoint(own_forward, *args, use_reentrant=False, context_fn=functools.partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _unchanged_buffers(block)


@contextmanager
def _unchanged_buffers(block: nn.Module) -> Iterator[None]:
    """The second pass must not move the statistics again."""
    before = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
