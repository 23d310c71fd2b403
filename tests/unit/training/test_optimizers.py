from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from foundry_ray.config import TrainConfig
from foundry_ray.training.optimizers import ADAMW_BETAS, ADAMW_EPS, SGD_MOMENTUM, param_groups, update_rule


def reference(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    groups = [{"params": list(group.params), "weight_decay": group.weight_decay} for group in param_groups(model, train.weight_decay)]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.1, betas=ADAMW_BETAS, eps=ADAMW_EPS, fused=True)
    return torch.optim.SGD(groups, lr=0.1, momentum=SGD_MOMENTUM, nesterov=True, fused=True)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_rule_computes_the_bits_of_the_torch_optimizer(name: str) -> None:
    train = TrainConfig(optimizer=name, weight_decay=0.1)
    mine = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    theirs = copy.deepcopy(mine)
    rule, optimizer = update_rule(mine, train), reference(theirs, train)
    for _ in range(4):
        for model in (mine, theirs):
            model.zero_grad()
            model(torch.ones(3, 5)).square().sum().backward()
        rule.step(0.1)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decayed, kept = param_groups(model, 0.5)
    assert [tuple(param.shape) for param in decayed.params] == [(2, 1, 3, 3)]
    assert decayed.weight_decay == 0.5
    assert kept.weight_decay == 0.0
    assert len(kept.params) == 3


def test_a_state_of_another_model_is_refused() -> None:
    small, large = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="holds 12 tensors, wanted 6"):
        update_rule(small, TrainConfig()).load_state(update_rule(large, TrainConfig()).state())


def test_constructing_and_stepping_imports_no_dynamo() -> None:
    code = """
import sys, torch
from foundry_ray.config import TrainConfig
from foundry_ray.training.engine import TorchEngine
for name in ("adamw", "sgd"):
    engine = TorchEngine(torch.nn.Linear(2, 2), TrainConfig(optimizer=name))
    engine.step(engine.model(torch.ones(1, 2)).sum())
    assert "torch._dynamo" not in sys.modules, name
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
