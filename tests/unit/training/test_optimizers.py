"""Update rules: they are the optimizers of their names, their state is restored exactly, and what is refused."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foundry_ray.config import TrainConfig
from foundry_ray.errors import ConfigError, OutOfRange
from foundry_ray.training.optimizers import ELEMENTWISE, OPTIMIZERS, check_optimizer, param_groups, update_rule
from foundry_ray.training.rules import UpdateRule

NAMES = [*OPTIMIZERS, "import:torch.optim:NAdam"]


def job(name: str, **fields: object) -> tuple[nn.Module, TrainConfig]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    return model, TrainConfig.model_validate({"optimizer": name, "lr": 0.01, "weight_decay": 0.1, **fields})


def set_gradients(model: nn.Module, step: int) -> None:
    model.zero_grad()
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(step))
    model(inputs).square().sum().backward()


def take(model: nn.Module, step: Callable[[], object], steps: range) -> list[Tensor]:
    for index in steps:
        set_gradients(model, index)
        step()
    return [param.detach().clone() for param in model.parameters()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def groups_of(model: nn.Module) -> list[dict[str, object]]:
    """Matrices decay, biases do not."""
    return [{"params": [p for p in model.parameters() if (p.ndim > 1) is decays], "weight_decay": 0.1 * decays} for decays in (True, False)]


OPTIONS: list[dict[str, Any]] = [{}, {"betas": (0.8, 0.95), "momentum": 0.5}, {"momentum": 0.0}]


def _theirs(name: str, groups: list[dict[str, object]], *, betas: tuple[float, float] = (0.9, 0.999), momentum: float = 0.9) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.01, momentum=momentum, nesterov=momentum > 0, fused=True)
    return torch.optim.AdamW(groups, lr=0.01, betas=betas, fused=True) if name == "adamw" else torch.optim.Adafactor(groups, lr=0.01)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
def test_the_rule_computes_the_bits_of_torchs_optimizer_of_its_name(name: str, options: dict[str, Any]) -> None:
    model, train = job(name, **options)
    twin = copy.deepcopy(model)
    rule, optimizer = update_rule(model, train), _theirs(name, groups_of(twin), **options)
    assert equal(take(model, lambda: rule.step(0.01), range(5)), take(twin, optimizer.step, range(5)))
    assert rule.num_steps == 5


@pytest.mark.parametrize("name", NAMES)
def test_the_penalties_are_part_of_each_rule(name: str) -> None:
    model, train = job(name, l1=0.01, l2=0.1)
    twin = copy.deepcopy(model)
    rule, plain = update_rule(model, train), update_rule(twin, train.model_copy(update={"l1": 0.0, "l2": 0.0}))

    def penalised() -> None:
        for param in twin.parameters():
            if param.ndim > 1 and param.grad is not None:
                param.grad += 0.01 * param.detach().sign() + 0.1 * param.detach()
        plain.step(0.01)

    mine, theirs = take(model, lambda: rule.step(0.01), range(3)), take(twin, penalised, range(3))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_lion_is_the_algorithm_of_its_paper() -> None:
    model, train = job("lion", betas=[0.9, 0.99])
    rule, weights = update_rule(model, train), [param.detach().clone() for param in model.parameters()]
    averages = [torch.zeros_like(weight) for weight in weights]
    for step in range(5):
        set_gradients(model, step)
        for weight, average, param in zip(weights, averages, model.parameters(), strict=True):
            assert param.grad is not None
            sign = (0.9 * average + (1 - 0.9) * param.grad).sign()
            weight -= 0.01 * (sign + (0.1 if weight.ndim > 1 else 0.0) * weight)
            average.copy_(0.99 * average + (1 - 0.99) * param.grad)
        rule.step(0.01)
    for weight, param in zip(weights, model.parameters(), strict=True):
        torch.testing.assert_close(weight, param.detach(), rtol=1e-6, atol=1e-7)


def restore(source: UpdateRule, target: UpdateRule) -> None:
    saved = {slot: {name: tensor.clone() for name, tensor in tensors.items()} for slot, tensors in source.slots().items()}
    for slot, tensors in target.slots().items():
        for name, tensor in tensors.items():
            tensor.copy_(saved[slot][name])
    target.load_num_steps(source.num_steps)


@pytest.mark.parametrize("num_before", [0, 3])
@pytest.mark.parametrize("name", [*NAMES, "import:torch.optim:Rprop", "import:torch.optim:Adagrad"])
def test_a_restored_state_goes_on_as_if_unbroken(name: str, num_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.endswith("Rprop"):
        name = own(tmp_path, monkeypatch, "from torch.optim import Rprop\ndef make(groups, *, lr, weight_decay):\n    return Rprop(groups, lr=lr)\n")
    model, train = job(name)
    rule = update_rule(model, train)
    take(model, lambda: rule.step(train.lr), range(num_before))
    other = copy.deepcopy(model)
    resumed = update_rule(other, train)
    restore(rule, resumed)
    steps = range(num_before, num_before + 3)
    assert equal(take(model, lambda: rule.step(train.lr), steps), take(other, lambda: resumed.step(train.lr), steps))


@pytest.mark.parametrize(
    ("name", "slots"),
    [("adamw", {"mean", "variance"}), ("sgd", {"momentum"}), ("lion", {"momentum"}), ("adafactor", {"row", "column", "variance"})],
)
def test_the_state_is_there_before_the_first_step_by_slot_and_parameter(name: str, slots: set[str]) -> None:
    model, train = job(name)
    before = [param.detach().clone() for param in model.parameters()]
    state = update_rule(model, train).slots()
    assert set(state) == slots
    assert {key for tensors in state.values() for key in tensors} == {key for key, _ in model.named_parameters()}
    assert equal(before, [param.detach() for param in model.parameters()])
    assert all(param.grad is None for param in model.parameters())


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_an_elementwise_rule_treats_a_shard_as_it_treats_the_whole(name: str) -> None:
    model, train = job(name)
    shard = nn.Module()
    shard.part = nn.Parameter(model[0].weight.detach().flatten()[7:13].clone()[None])
    rule, shard_rule = update_rule(model, train), update_rule(shard, train)
    for step in range(3):
        set_gradients(model, step)
        shard.part.grad = model[0].weight.grad.flatten()[7:13].clone()[None]
        rule.step(0.01)
        shard_rule.step(0.01)
    torch.testing.assert_close(shard.part.detach()[0], model[0].weight.detach().flatten()[7:13], rtol=1e-6, atol=1e-8)


def test_parameters_without_a_gradient_stay_and_count_the_steps() -> None:
    model, train = job("adamw")
    rule = update_rule(model, train)
    kept = model[2].weight.detach().clone()
    set_gradients(model, 0)
    model[2].weight.grad = None
    rule.step(0.01)
    assert torch.equal(model[2].weight, kept)
    assert not torch.equal(model[0].weight, job("adamw")[0][0].weight)
    assert rule.num_steps == 1


def test_biases_and_norms_neither_decay_nor_are_penalised() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decayed, kept = param_groups(model, TrainConfig(weight_decay=0.5, l1=0.1, l2=0.2))
    assert list(decayed.params) == ["0.weight"]
    assert (decayed.weight_decay, decayed.l1, decayed.l2) == (0.5, 0.1, 0.2)
    assert list(kept.params) == ["0.bias", "1.weight", "1.bias"]
    assert (kept.weight_decay, kept.l1, kept.l2) == (0.0, 0.0, 0.0)


def test_frozen_parameters_are_left_out() -> None:
    model, train = job("adamw")
    model[0].requires_grad_(False)
    assert list(update_rule(model, train).slots()["mean"]) == ["2.weight", "2.bias"]


def test_the_penalties_are_those_of_autograd() -> None:
    model, train = job("sgd", momentum=0.0, weight_decay=0.0, l1=0.05, l2=0.3)
    twin = copy.deepcopy(model)
    rule = update_rule(model, train)
    mine = take(model, lambda: rule.step(0.01), range(1))
    twin.zero_grad()
    loss = twin(torch.randn(6, 5, generator=torch.Generator().manual_seed(0))).square().sum()
    penalised = [param for param in twin.parameters() if param.ndim > 1]
    (loss + sum(0.05 * param.abs().sum() + 0.3 / 2 * param.square().sum() for param in penalised)).backward()
    theirs = [param.detach() - 0.01 * param.grad for param in twin.parameters() if param.grad is not None]
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    """`make` of a user's module with a name that no other test has."""
    name = f"optimizers_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(f"import torch\n{source}")
    monkeypatch.syspath_prepend(tmp_path)
    return f"import:{name}:make"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_names_there_are_pass_the_check(name: str) -> None:
    check_optimizer(name)


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(OutOfRange, match=r"optimizer is 'adamv', wanted one of adamw, sgd, lion, adafactor or import:.*did you mean 'adamw'\?"):
        check_optimizer("adamv", key="teacher.train.optimizer")


def test_a_factory_of_another_form_is_refused_without_being_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = own(tmp_path, monkeypatch, "def make(params, speed):\n    raise AssertionError\n")
    with pytest.raises(ConfigError, match=r"takes other arguments \(.*\), wanted a factory\(param_groups, lr=\.\.\., weight_decay=\.\.\.\)"):
        check_optimizer(name)


REFUSED = {
    "makes a int, wanted a torch.optim.Optimizer": "def make(groups, *, lr, weight_decay):\n    return 3\n",
    "changes 2 of the 4 parameters": "def make(groups, *, lr, weight_decay):\n    return torch.optim.SGD(groups[:1], lr=lr)\n",
    "keeps `moment`, a tensor of torch.bfloat16": """
class Make(torch.optim.Optimizer):
    def __init__(self, groups, *, lr, weight_decay):
        super().__init__(groups, {"lr": lr})
    def step(self, closure=None):
        for param in self.param_groups[0]["params"]:
            self.state[param]["moment"] = param.detach().bfloat16()
make = Make
""",
    "keeps `calls` in its parameter groups": """
class Make(torch.optim.Optimizer):
    def __init__(self, groups, *, lr, weight_decay):
        super().__init__(groups, {"lr": lr, "calls": 0})
    def step(self, closure=None):
        self.param_groups[0]["calls"] += 1
make = Make
""",
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_optimizer_that_could_not_be_resumed_is_refused(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, train = job(own(tmp_path, monkeypatch, REFUSED[message]))
    with pytest.raises(ConfigError, match=message):
        update_rule(model, train)


def test_joined_groups_are_refused_with_penalties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = "def make(groups, *, lr, weight_decay):\n    return torch.optim.SGD([p for g in groups for p in g['params']], lr=lr)\n"
    model, train = job(own(tmp_path, monkeypatch, joined), l1=0.1)
    with pytest.raises(ConfigError, match=r"joins weights that are penalised with others.*pass `param_groups` on as they are"):
        update_rule(model, train)


def test_the_state_of_a_torch_optimizer_has_the_names_of_the_rule() -> None:
    ours, theirs = (update_rule(*job(name)).slots() for name in ("adamw", "import:torch.optim:AdamW"))
    assert {slot: set(tensors) for slot, tensors in theirs.items()} == {slot: set(tensors) for slot, tensors in ours.items()}


def test_elementwise_rules_import_no_dynamo_and_names_no_torch() -> None:
    code = """
import sys
from foundry_ray.training.optimizers import ELEMENTWISE, check_optimizer, update_rule
[check_optimizer(name) for name in ELEMENTWISE]
assert "torch" not in sys.modules
import torch
from foundry_ray.config import TrainConfig
for name in ELEMENTWISE:
    model = torch.nn.Linear(2, 2)
    rule = update_rule(model, TrainConfig(optimizer=name))
    model(torch.ones(1, 2)).sum().backward()
    rule.step(0.1)
    assert "torch._dynamo" not in sys.modules, name
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
