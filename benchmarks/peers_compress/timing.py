"""Times all students in one process, in turns, in every runtime that takes them, and judges each in its fastest.

python -m benchmarks.peers_compress.timing ASKED.json ANSWER.json

A student's time belongs to its graph, so that of the first seed is timed; all seeds are judged. Session settings are those of `foundry_ray.inference`
for all ONNX files: one thread, batch 1, raw pixels.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foundry_ray.clock import SystemClock
from foundry_ray.errors import FoundryError
from foundry_ray.evaluation.timing import sample, summarize
from foundry_ray.inference import open_choice
from foundry_ray.protocols import RuntimeChoice

Run = Callable[[np.ndarray], np.ndarray]
_RUNTIMES = {
    "onnxruntime": RuntimeChoice(threads=1),
    "openvino": RuntimeChoice(name="openvino", threads=1),
    "openvino bf16": RuntimeChoice(name="openvino", threads=1, precision="bf16"),
}
_INDUCTOR = "torch inductor"
_AT_ONCE = 250


def main(asked: Mapping[str, Any], answer: Path) -> None:
    """Time, choose each one's runtime, judge."""
    torch.set_num_threads(1)
    saved = np.load(asked["val"])
    images_NCHW, labels_N = saved["images"], saved["labels"]
    students: Sequence[Mapping[str, Any]] = asked["students"]
    opened = {(number, name): run for number, one in enumerate(students) for name, run in runtimes_of(Path(one["folders"][0])).items()}
    calls = [functools.partial(run, images_NCHW[:1].copy()) for run in opened.values()]
    timings = dict(zip(opened, map(summarize, sample(calls, budget_s=asked["budget_s"], clock=SystemClock())), strict=True))
    found = []
    for number, student in enumerate(students):
        mine = {name: timing for (owner, name), timing in timings.items() if owner == number}
        fastest = min(mine, key=lambda name: mine[name].p50_ms)
        folders = [Path(folder) for folder in student["folders"]]
        found.append(
            {
                "p50_ms": {name: timing.p50_ms for name, timing in mine.items()},
                "p95_ms": mine[fastest].p95_ms,
                "runtime": fastest,
                "size_bytes": _file(folders[0], fastest).stat().st_size,
                "accuracies": [accuracy(runtimes_of(folder, only=fastest)[fastest], images_NCHW, labels_N, fastest) for folder in folders],
            }
        )
        print(student["name"], found[-1], flush=True)
    answer.write_text(json.dumps(found))


def runtimes_of(folder: Path, *, only: str = "") -> dict[str, Run]:
    """What runs the student in this folder, by name."""
    found: dict[str, Run] = {}
    for name, choice in _RUNTIMES.items():
        if only in ("", name):
            try:
                found[name] = open_choice(_file(folder, name).read_bytes(), choice).run
            except FoundryError as error:
                print(f"{folder.name} does not run in {name}: {error.message}", flush=True)
    if _file(folder, _INDUCTOR).is_file() and only in ("", _INDUCTOR):
        found[_INDUCTOR] = _compiled(_file(folder, _INDUCTOR))
    return found


def accuracy(run: Run, images_NCHW: np.ndarray, labels_N: np.ndarray, runtime: str) -> float:
    """On val; what was compiled for one row gets one at a time."""
    at_once = 1 if runtime == _INDUCTOR else _AT_ONCE
    parts = [run(np.ascontiguousarray(images_NCHW[start : start + at_once])) for start in range(0, len(images_NCHW), at_once)]
    return float((np.concatenate(parts).argmax(axis=1) == labels_N).mean())


def _file(folder: Path, runtime: str) -> Path:
    return folder / ("model.pt2" if runtime == _INDUCTOR else "model.onnx")


def _compiled(path: Path) -> Run:
    """The inductor's code for one row, weights frozen into it, as torch's guide to int8 on x86 has it."""
    import torch._inductor.config as inductor
    import torchao.quantization.pt2e  # type: ignore[import-not-found,unused-ignore]  # noqa: F401  registers the operators of the file

    inductor.freezing = True
    module = torch.compile(torch.export.load(path).module())

    def run(images_BCHW: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits_BC: np.ndarray = module(torch.from_numpy(images_BCHW)).numpy()
        return logits_BC

    return run


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
