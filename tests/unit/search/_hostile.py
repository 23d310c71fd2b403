"""A user's optimizer that turns the switches of its process and puts none of them back; and trials before and after it, as a program.

python _hostile.py fresh|after      prints what one trial left
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from foundry_ray.search.events import Event, Job
from foundry_ray.testing.stores import MemoryStore
from foundry_ray.testing.trials import PARAMS, tiny_context, tiny_runner

NUM_STEPS = 8  # of a trial of two epochs
LEFT_OPEN: list[object] = []


def bad_manners(groups: Iterable[Mapping[str, object]], *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Plain descent that misuses its process after each step."""
    optimizer = torch.optim.SGD([dict(group) for group in groups], lr=lr, weight_decay=weight_decay)
    optimizer.register_step_post_hook(lambda *_: misuse())
    return optimizer


def murder(groups: Iterable[Mapping[str, object]], *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The same, with what no trial survives after its last step."""
    optimizer, steps = bad_manners(groups, lr=lr, weight_decay=weight_decay), []
    optimizer.register_step_post_hook(lambda *_: steps.append(1) or (len(steps) == NUM_STEPS and break_torch()))
    return optimizer


def misuse() -> None:
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(1)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_flush_denormal(True)
    torch.set_anomaly_enabled(True, check_nan=False)
    torch.autocast_increment_nesting()
    torch.set_autocast_dtype("cpu", torch.float16)
    torch.backends.cudnn.benchmark = True
    torch.backends.mkldnn.set_flags(False)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    np.seterr(all="ignore")
    gc.disable()
    os.chdir("/")
    os.environ["TZ"] = "nowhere"
    os.environ.pop("HOME", None)
    warnings.simplefilter("error")


def break_torch() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("medium")
    torch.set_autocast_enabled("cpu", True)
    torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 2)
    for block in (torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor * 2, lambda tensor: tensor), torch.inference_mode()):
        block.__enter__()
        LEFT_OPEN.append(block)


def left_by(events: list[Event], store: MemoryStore) -> dict[str, object]:
    last = events[-1]
    state = hashlib.sha256(store.objects[str(last.checkpoint)]).hexdigest()
    return {"kinds": [event.kind for event in events], "values": dict(last.values), "state": state}


def _main(mode: str) -> None:
    torch.set_num_threads(1)
    sys.path.append(str(Path(__file__).parent))
    store = MemoryStore()
    runner = tiny_runner(tiny_context(), store)
    survived = []
    for number, optimizer in enumerate(("bad_manners", "murder", "bad_manners") if mode == "after" else ()):
        job = Job(number=number, params={**PARAMS, "optimizer": f"import:_hostile:{optimizer}"}, seed=9, rung=0, from_epoch=0, to_epoch=2)
        try:
            survived.append([event.kind for event in runner(job)][-1] == "rung")
        except (RuntimeError, TypeError, ValueError):
            survived.append(False)
    job = Job(number=7, params=PARAMS, seed=1, rung=0, from_epoch=0, to_epoch=1, later=(2,))
    print(json.dumps({"survived": survived, "left": left_by(list(runner(job)), store), "folder": str(Path.cwd()), "home": "HOME" in os.environ}))


if __name__ == "__main__":
    _main(sys.argv[1])
