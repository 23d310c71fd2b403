"""What all model cards have in common as Markdown: how a model is served, tables, latencies. Loads nothing that draws in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from foundry_ray.types import LatencyResult

HEADING = "# "
SERVING = """\
Everything that serving needs is in `model.onnx`: it takes raw pixels, which it normalises itself, or token ids, and gives logits. `signature.json`
names what it takes and the classes; where a `tokenizer.json` lies beside it, the library tokenizers makes ids of texts with it, cut and padded.
numpy and onnxruntime are enough:

```python
import json
import sys

import numpy as np
import onnxruntime

with open("signature.json", encoding="utf-8") as file:
    signature = json.load(file)
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
rows = np.load(sys.argv[1])  # of the dtype and the shape in signature["input"]
[logits] = session.run([signature["output"]["name"]], {signature["input"]["name"]: rows})
print(json.dumps([signature["classes"][index] for index in logits.argmax(axis=1)]))
```
"""


def markdown_table(columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def latency_rows(results: Sequence[LatencyResult]) -> Iterator[tuple[str, str, str]]:
    """p50 with its 95 % interval, p95, and under which conditions."""
    for result in results:
        yield f"{result.p50_ms:.3f} ms [{result.ci_ms[0]:.3f}, {result.ci_ms[1]:.3f}]", f"{result.p95_ms:.3f} ms", _conditions(result)


def _conditions(result: LatencyResult) -> str:
    noisy = ", noisy" if result.is_noisy else ""
    return f"{result.device}, {result.runtime}, {result.threads} thread(s), batch {result.batch_size}, n {result.n}{noisy}"
