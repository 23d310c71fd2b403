"""OpenVINO on the CPU, with the same ONNX bytes: int8 files keep their integer products, others compute in the precision that is named.

Precision is never left to the library, whose default is bf16 where the CPU has it: answers would change with the machine.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

from foundry_ray.errors import BadRecord, ConfigError
from foundry_ray.inference.inputs import Input
from foundry_ray.inference.runtimes import Device, Precision, Runtime, register

if TYPE_CHECKING:
    import numpy as np

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRuntime:
    """A compiled model with one request, so that calls from several threads wait for each other."""

    name = "openvino"
    device = "cpu"

    def __init__(self, compiled: Any) -> None:
        [source], [result] = compiled.inputs, compiled.outputs
        sizes = [size.get_length() if size.is_static else None for size in source.get_partial_shape()]
        self._input = Input.of(source.get_any_name(), source.get_element_type().to_dtype().name, sizes)
        self._answer = [size.get_length() if size.is_static else 0 for size in result.get_partial_shape()]
        self._tensor = _library().Tensor
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()
        self.input_dtype, self.input_shape = self._input.dtype, self._input.shape

    def run(self, inputs_N: np.ndarray) -> np.ndarray:
        """See `Runtime.run`."""
        import numpy as np

        self._input.check(inputs_N)
        if len(inputs_N) == 0:
            return np.zeros((0, *self._answer[1:]), dtype=np.float32)
        if not (inputs_N.flags.c_contiguous and inputs_N.flags.writeable):
            inputs_N = inputs_N.copy()
        with self._lock:
            # By tensors, and not as `infer([inputs])`, whose dispatch takes half of the 0.1 ms that a small model does.
            self._request.set_input_tensor(self._tensor(inputs_N, shared_memory=True))
            self._request.infer()
            logits: np.ndarray = self._request.get_output_tensor().data.copy()
        return logits


@register("openvino")
class OpenVinoOpener:
    """Compiles for the CPU, for the least time of one call."""

    name = "openvino"
    device: Device = "cpu"
    precisions: tuple[Precision, ...] = ("fp32", "bf16")

    def open(self, onnx: bytes, *, threads: int, precision: Precision, device: Device) -> Runtime:
        """See `RuntimeOpener.open`."""
        if device == "cuda":
            raise ConfigError("device is 'cuda', but runtime openvino computes on the CPU.", hint="use `cpu`, or runtime tensorrt on a GPU.")
        core = _core()
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinned threads of several processes would share one core while others idle.
            "ENABLE_CPU_PINNING": False,
            # Activations of a file with integer weights alone stay as exact as the file has them.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        try:
            return OpenVinoRuntime(core.compile_model(core.read_model(onnx), "CPU", config))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise BadRecord(f"openvino cannot load {len(onnx)} bytes: {reason}", hint="export the model again.", source="model.onnx") from error

    def check(self, precision: Precision) -> None:
        """See `RuntimeOpener.check`."""
        core = _core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            message = "runtime openvino got precision bf16, wanted fp32: this CPU has no bf16 products."
            raise ConfigError(message, hint="a CPU with AMX or AVX512-BF16 has them.")

    def version(self) -> str:
        """See `RuntimeOpener.version`."""
        return str(_library().__version__)


@functools.cache
def _core() -> Any:
    """One for the whole process: loading the CPU's plugin takes some 20 ms."""
    return _library().Core()


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        message = "runtime openvino needs the package openvino, which is not installed here."
        raise ConfigError(message, hint="pip install 'foundry-ray[openvino]'") from error
    return openvino
