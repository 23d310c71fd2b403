"""The runtime that a model ships with: written into its signature when it is made, read wherever it is opened."""

from __future__ import annotations

from typing import cast

from foundry_ray.errors import ArtifactCorrupt
from foundry_ray.inference.runtimes import Precision, Runtime, open_runtime
from foundry_ray.protocols import RuntimeChoice
from foundry_ray.types import Json

_KEY = "runtime"


def runtime_meta(choice: RuntimeChoice) -> dict[str, Json]:
    """What a signature says of it. A model from before that, or a teacher, says nothing: it runs in the default runtime."""
    return {_KEY: {"name": choice.name, "threads": choice.threads, "precision": choice.precision}}


def shipped_runtime(meta: Json) -> RuntimeChoice:
    """What the signature of a model names. Raises ArtifactCorrupt where it names nothing that can be read."""
    found = meta.get(_KEY) if isinstance(meta, dict) else None
    if found is None:
        return RuntimeChoice()
    fields = found if isinstance(found, dict) else {}
    name, threads, precision = fields.get("name"), fields.get("threads"), fields.get("precision")
    if not isinstance(name, str) or not isinstance(threads, int) or not isinstance(precision, str):
        message = f"the signature's runtime is {found!r}, wanted a name, threads and a precision."
        raise ArtifactCorrupt(message, hint="make the model again: `--fresh student`.")
    return RuntimeChoice(name=name, threads=threads, precision=cast(Precision, precision))


def open_choice(onnx: bytes, choice: RuntimeChoice, *, threads: int = 1) -> Runtime:
    """Open a file in a runtime with its own number of threads, or with `threads` where it has none. Raises as `open_runtime` does."""
    return open_runtime(onnx, threads=choice.threads or threads, runtime=choice.name, precision=choice.precision)


def open_shipped(onnx: bytes, meta: Json, *, threads: int | None = None) -> Runtime:
    """Open a served file in the runtime that its signature names.

    Args:
        onnx: The file.
        meta: Of its manifest.
        threads: Instead of those that the signature names; where both are silent, 1.
    """
    choice = shipped_runtime(meta)
    return open_runtime(onnx, threads=threads or choice.threads or 1, runtime=choice.name, precision=choice.precision)
