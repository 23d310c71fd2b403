"""onnxruntime: session settings, and the check of what goes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foundry_ray.errors import BadRecord, ConfigError
from foundry_ray.inference.inputs import Input
from foundry_ray.inference.runtimes import Device, Precision, Runtime, register

if TYPE_CHECKING:
    import numpy as np

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_DTYPES = {"float": "float32", "double": "float64"}
"""onnxruntime's names of those dtypes that numpy calls otherwise."""


class OnnxRuntime:
    """A model in onnxruntime: sequential execution, all graph fusions, no thread that spins while idle."""

    def __init__(self, session: Any, *, name: str, device: str) -> None:
        [source], [result] = session.get_inputs(), session.get_outputs()
        dtype = str(source.type).removeprefix("tensor(").removesuffix(")")
        self.name, self.device = name, device
        self._session = session
        self._input = Input.of(source.name, _DTYPES.get(dtype, dtype), source.shape)
        self._outputs = [result.name]
        self.input_dtype, self.input_shape = self._input.dtype, self._input.shape

    def run(self, inputs_N: np.ndarray) -> np.ndarray:
        """See `Runtime.run`."""
        self._input.check(inputs_N)
        logits: np.ndarray = self._session.run(self._outputs, {self._input.name: inputs_N})[0]
        return logits


@register("onnxruntime")
class OnnxRuntimeOpener:
    """Opens sessions on the CPU, or on CUDA where `onnxruntime-gpu` is installed."""

    name = "onnxruntime"
    device: Device = "cpu"
    precisions: tuple[Precision, ...] = ("fp32",)

    def open(self, onnx: bytes, *, threads: int, precision: Precision, device: Device) -> Runtime:
        """See `RuntimeOpener.open`."""
        import onnxruntime

        providers, place = _providers(onnxruntime.get_available_providers(), device)
        return OnnxRuntime(open_session(onnx, providers, threads=threads), name=self.name, device=place)

    def check(self, precision: Precision) -> None:
        """See `RuntimeOpener.check`. It is always installed."""

    def version(self) -> str:
        """See `RuntimeOpener.version`."""
        import onnxruntime

        return str(onnxruntime.__version__)


def open_session(onnx: bytes, providers: Sequence[str | tuple[str, Mapping[str, object]]], *, threads: int) -> Any:
    """A session on the first of these providers that takes each operator. Raises BadRecord for bytes that are no model."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    try:
        return onnxruntime.InferenceSession(onnx, _options(threads), providers=providers)
    except (native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf, native.NotImplemented) as error:
        reason = str(error).splitlines()[0]
        raise BadRecord(f"onnxruntime cannot load {len(onnx)} bytes: {reason}", hint="export the model again.", source="model.onnx") from error


def _providers(available: Sequence[str], device: Device) -> tuple[list[str], str]:
    if device == "cuda" and CUDA not in available:
        got = ", ".join(available)
        raise ConfigError(f"device is 'cuda', but this onnxruntime has only {got}.", hint="`pip install onnxruntime-gpu`, or use `cpu`.")
    if device != "cpu" and CUDA in available:
        return [CUDA, CPU], "cuda"
    return [CPU], "cpu"


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # A pool that spins burns a core between requests, which other replicas of the node need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
