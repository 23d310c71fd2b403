"""One rank of DeepSpeed jobs without Ray: runs the cases that it is given, one after the other, and writes what they gave as JSON.

    RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 python tests/integration/_deepspeed_rank.py FOLDER CASE...

A case is a JSON object with the fields of `Case`. Each trains six steps, and leaves its fragments after the third in FOLDER; one with `source`
begins at step three with the fragments that another world left in that folder.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional

from foundry_ray.config import TeacherConfig
from foundry_ray.protocols import Engine, Fragment
from foundry_ray.testing.reporters import RecordingReporter
from foundry_ray.training.engine import TorchEngine
from foundry_ray.training.shape import Shape

BATCH = 16
STEPS = 6
SAVED = 3
LR = {"adamw": 1e-2, "sgd": 1e-1, "lion": 1e-3, "adafactor": 1e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is trained, and from where it goes on."""

    name: str
    stage: int = 0
    optimizer: str = "adamw"
    precision: str = "fp32"
    accumulation: int = 2
    settings: Mapping[str, object] = field(default_factory=dict)
    teacher: Mapping[str, object] = field(default_factory=dict)
    source: str = ""
    poisoned: int | None = None
    is_torch: bool = False

    def config(self, num_workers: int) -> TeacherConfig:
        """It as a section; parameters of fewer than 100 elements stay whole at ZeRO 3, the others are taken apart."""
        train = {"batch_size": BATCH, "lr": LR[self.optimizer], "optimizer": self.optimizer, "precision": self.precision, "grad_clip": 0.5}
        settings = {"zero_stage": self.stage, "persistence_threshold": 100, **self.settings}
        return TeacherConfig.model_validate({"train": train, "workers": num_workers, "deepspeed": settings, **self.teacher})


class Block(nn.Module):
    """One of two equal layers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(13, 13)
        self.gain = nn.Parameter(torch.ones(13))

    def forward(self, hidden_BC: Tensor) -> Tensor:
        return hidden_BC + self.gain * functional.tanh(self.linear(hidden_BC))


class Net(nn.Module):
    """Odd sizes, a convolution, repeated blocks, a layer that does not train, and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3)
        self.norm = nn.GroupNorm(2, 6)
        self.enter = nn.Linear(96, 13)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.frozen = nn.Linear(13, 13).requires_grad_(False)
        self.tied = nn.Linear(13, 13, bias=False)
        self.head = nn.Linear(13, 3)
        self.again = nn.Linear(13, 13, bias=False)
        self.again.weight = self.tied.weight

    def forward(self, images_BCHW: Tensor) -> Tensor:
        hidden_BC = self.enter(functional.relu(self.norm(self.stem(images_BCHW))).flatten(1))
        for block in self.blocks:
            hidden_BC = block(hidden_BC)
        logits: Tensor = self.head(self.again(self.frozen(self.tied(hidden_BC))))
        return logits


def make_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The global batch of a step."""
    generator = torch.Generator().manual_seed(step)
    labels_B = torch.randint(0, 3, (BATCH,), generator=generator)
    return torch.randn(BATCH, 1, 6, 6, generator=generator) + labels_B[:, None, None, None], labels_B


def train(engine: Engine, shape: Shape, steps: Sequence[int], case: Case) -> Iterator[tuple[float, float, bool]]:
    """Of each step: the mean loss over all ranks, the gradient's norm, and whether the weights changed."""
    for step in steps:
        images_BCHW, labels_B = batch(step)
        if step == case.poisoned:
            images_BCHW = images_BCHW * torch.nan
        losses = []
        for index in range(shape.accumulation):
            start = (index * shape.num_workers + engine.rank) * shape.micro_batch_size
            rows = slice(start, start + shape.micro_batch_size)
            loss = functional.cross_entropy(engine.forward(images_BCHW[rows]), labels_B[rows])
            engine.backward(loss)
            losses.append(float(loss.detach()))
        is_applied = engine.step(LR[case.optimizer])
        yield engine.reduce([sum(losses) / len(losses)])[0] / shape.num_workers, engine.grad_norm, is_applied


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv 2302.06675 as it stands there, at betas 0.9 and 0.999."""

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                average = self.state[param].setdefault("average", torch.zeros_like(param))
                sign = (0.9 * average + (1 - 0.9) * param.grad).sign()
                param.sub_(group["lr"] * (sign + group["weight_decay"] * param))
                average.copy_(0.999 * average + (1 - 0.999) * param.grad)


def reference(optimizer: str) -> dict[str, object]:
    """The same job in one process, in plain torch: one pass over the whole batch."""
    model = make_model()
    trained = [param for param in model.parameters() if param.requires_grad]
    matrices, vectors = ([param for param in trained if (param.ndim > 1) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    made = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=LR["adamw"]),
        "sgd": lambda: torch.optim.SGD(groups, lr=LR["sgd"], momentum=0.9, nesterov=True),
        "lion": lambda: Lion(groups, {"lr": LR["lion"]}),
        "adafactor": lambda: torch.optim.Adafactor(groups, lr=LR["adafactor"]),
    }
    rule, steps, results = made[optimizer](), [], {}
    for step in range(STEPS):
        images_BCHW, labels_B = batch(step)
        loss = functional.cross_entropy(model(images_BCHW), labels_B)
        loss.backward()
        steps.append((float(loss.detach()), float(nn.utils.clip_grad_norm_(trained, 0.5)), True))
        rule.step()
        rule.zero_grad()
        if step == SAVED - 1:
            results = {"outputs": model(batch(99)[0]).flatten().tolist(), "swapped": _halved(model)(batch(99)[0]).flatten().tolist()}
    return {"steps": steps, **results}


@torch.no_grad()
def _halved(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for param in model.parameters():
        param.mul_(0.5)
    return model


def run(case: Case, folder: Path, num_workers: int) -> dict[str, object]:
    micro = BATCH // num_workers // case.accumulation
    shape = Shape(num_workers=num_workers, micro_batch_size=micro, accumulation=case.accumulation, zero_stage=case.stage)
    reporter = RecordingReporter()
    engine = make_engine(case, shape, reporter)
    if case.source:
        load(engine, Path(case.source))
        return {"steps": list(train(engine, shape, range(SAVED, STEPS), case)), "outputs": outputs(engine)}
    steps = list(train(engine, shape, range(SAVED), case))
    save(engine, folder / case.name)
    results = {"outputs": outputs(engine), "swapped": swapped(engine), "is_training": engine.model.training, "memories": memories(engine)}
    results["is_back"] = results["outputs"] == outputs(engine)
    steps += train(engine, shape, range(SAVED, STEPS), case)
    return {"steps": steps, **results, "scalars": dict(engine.scalars()), "warnings": reporter.warnings}


def make_engine(case: Case, shape: Shape, reporter: RecordingReporter) -> Engine:
    from foundry_ray.training.deepspeed import DeepSpeedEngine

    config = case.config(shape.num_workers)
    if case.is_torch:
        return TorchEngine(make_model(), config.train, accumulation=shape.accumulation)
    return DeepSpeedEngine(make_model(), config, shape, device="cpu", reporter=reporter)


def memories(engine: Engine) -> int:
    """Blocks of memory that hold the weights in fp32: what is computed with, what is stepped, and DeepSpeed's own views of that."""
    params = dict(engine.model.named_parameters()).values()
    computed = [getattr(param, "ds_tensor", param) for param in params if param.requires_grad]
    seen = [param._hp_mapping.hp_fragment for param in params if getattr(param, "_hp_mapping", None)]
    stepped = [fragment.tensor for fragment in engine.fragments() if fragment.slot == "weights" and not fragment.name.startswith("frozen")]
    return len({tensor.untyped_storage().data_ptr() for tensor in (*computed, *seen, *stepped)})


def outputs(engine: Engine) -> list[float]:
    """What the model says now, in eval mode."""
    return engine.evaluate(batch(99)[0]).flatten().tolist()


@torch.no_grad()
def swapped(engine: Engine) -> list[float]:
    """What it says with all weights halved; they are put back."""
    weights = [fragment.tensor for fragment in engine.fragments() if fragment.slot == "weights"]
    kept = [tensor.clone() for tensor in weights]
    torch._foreach_mul_(weights, 0.5)
    engine.refresh()
    halved = outputs(engine)
    torch._foreach_copy_(weights, kept)
    engine.refresh()
    return halved


def save(engine: Engine, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    entries = [(one.slot, one.name, one.start, one.total, one.tensor.clone(), one.is_replicated) for one in engine.fragments()]
    torch.save({"fragments": entries, "scalars": dict(engine.scalars())}, folder / f"{engine.rank}.pt")


@torch.no_grad()
def load(engine: Engine, folder: Path) -> None:
    """Fill this world's fragments from those of another; every element must be there."""
    saved = [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
    whole: dict[tuple[str, str], Tensor] = {}
    for slot, name, start, total, tensor, _ in [entry for part in saved for entry in part["fragments"]]:
        whole.setdefault((slot, name), torch.full((total,), torch.nan))[start : start + len(tensor)] = tensor
    for fragment in engine.fragments():
        fragment.tensor.copy_(_part(whole[fragment.slot, fragment.name], fragment))
    engine.load_scalars(saved[0]["scalars"])
    engine.refresh()


def _part(whole: Tensor, fragment: Fragment) -> Tensor:
    assert len(whole) == fragment.total
    return whole[fragment.start : fragment.start + fragment.tensor.numel()]


def main(folder: Path, cases: list[Case]) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    results = {case.name: run(case, folder, world_size) for case in cases}
    if rank == 0:
        results |= {f"reference-{name}": reference(name) for name in sorted({case.optimizer for case in cases})}
    (folder / f"result-{rank}.json").write_text(json.dumps(results))


def as_argument(case: Case) -> str:
    return json.dumps(asdict(case))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Case(**json.loads(argument)) for argument in sys.argv[2:]])
    # Torn down by the interpreter, gloo's threads now and then abort a process that has done all its work.
    sys.stdout.flush()
    os._exit(0)
