"""onnxruntime: session settings, and the check of what goes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundry_ray.errors import BadRecord, ConfigError
from foundry_ray.inference.runtimes import Device, Runtime, register

if TYPE_CHECKING:
    import numpy as np

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"


class OnnxRuntime:
    """A model in onnxruntime: sequential execution, all graph fusions, no thread that spins while idle."""

    name = "onnxruntime"

    def __init__(self, session: Any, device: str) -> None:
        [source], [result] = session.get_inputs(), session.get_outputs()
        _, channels, height, width = source.shape
        self._session = session
        self._input, self._outputs = source.name, [result.name]
        self.device = device
        self.image_shape: tuple[int, int, int] = (channels, height, width)

    def run(self, images_NCHW: np.ndarray) -> np.ndarray:
        """See `Runtime.run`."""
        if images_NCHW.dtype != "uint8" or images_NCHW.ndim != 4 or images_NCHW.shape[1:] != self.image_shape:
            wanted = ", ".join(str(size) for size in self.image_shape)
            raise BadRecord(
                f"the input is {images_NCHW.dtype} of shape {images_NCHW.shape}, wanted uint8 of shape (N, {wanted}).",
                hint="send raw pixels 0..255 as (rows, channels, height, width), without normalising them.",
                source="pixels",
            )
        logits: np.ndarray = self._session.run(self._outputs, {self._input: images_NCHW})[0]
        return logits


@register("onnxruntime")
class OnnxRuntimeOpener:
    """Opens sessions on the CPU, or on CUDA where `onnxruntime-gpu` is installed."""

    name = "onnxruntime"

    def open(self, onnx: bytes, *, threads: int, device: Device) -> Runtime:
        """See `RuntimeOpener.open`."""
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as native

        providers, place = _providers(onnxruntime.get_available_providers(), device)
        try:
            return OnnxRuntime(onnxruntime.InferenceSession(onnx, _options(threads), providers=providers), place)
        except (native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf, native.NotImplemented) as error:
            reason = str(error).splitlines()[0]
            raise BadRecord(f"onnxruntime cannot load {len(onnx)} bytes: {reason}", hint="export the model again.", source="model.onnx") from error

    def version(self) -> str:
        """See `RuntimeOpener.version`."""
        import onnxruntime

        return str(onnxruntime.__version__)


def _providers(available: list[str], device: Device) -> tuple[list[str], str]:
    if device == "cuda" and _CUDA not in available:
        got = ", ".join(available)
        raise ConfigError(f"device is 'cuda', but this onnxruntime has only {got}.", hint="`pip install onnxruntime-gpu`, or use `cpu`.")
    if device != "cpu" and _CUDA in available:
        return [_CUDA, _CPU], "cuda"
    return [_CPU], "cpu"


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
