"""TensorRT through onnxruntime's provider for it, where there is an NVIDIA GPU.

Operators that TensorRT does not take run on CUDA. An engine is built at the first batch of each new size, which takes seconds. Integer files are
not for it: TensorRT wants signed activations without a zero point, and ours are unsigned (`compression.quantize` says why).
"""

from __future__ import annotations

from foundry_ray.errors import ConfigError
from foundry_ray.inference.onnx_runtime import CPU, CUDA, OnnxRuntime, open_session
from foundry_ray.inference.runtimes import Device, Precision, Runtime, register

_TENSORRT = "TensorrtExecutionProvider"
_HINT = "on a machine with an NVIDIA GPU: pip install onnxruntime-gpu tensorrt"


@register("tensorrt")
class TensorRtOpener:
    """Opens sessions on the first GPU."""

    name = "tensorrt"
    device: Device = "cuda"
    precisions: tuple[Precision, ...] = ("fp32", "bf16")

    def open(self, onnx: bytes, *, threads: int, precision: Precision, device: Device) -> Runtime:
        """See `RuntimeOpener.open`. Raises ConfigError too where TensorRT itself cannot be loaded: onnxruntime would go on without it."""
        if device == "cpu":
            raise ConfigError("device is 'cpu', but runtime tensorrt computes on a GPU.", hint="use `cuda`, or runtime openvino on a CPU.")
        session = open_session(onnx, [(_TENSORRT, {"trt_bf16_enable": precision == "bf16"}), CUDA, CPU], threads=threads)
        if _TENSORRT not in session.get_providers():
            got = ", ".join(session.get_providers())
            raise ConfigError(f"runtime tensorrt cannot be loaded here: onnxruntime went on with {got}.", hint=_HINT)
        return OnnxRuntime(session, name=self.name, device="cuda")

    def check(self, precision: Precision) -> None:
        """See `RuntimeOpener.check`."""
        import onnxruntime

        available = onnxruntime.get_available_providers()
        if _TENSORRT not in available:
            message = f"runtime tensorrt needs onnxruntime with {_TENSORRT}; the one here has only {', '.join(available)}."
            raise ConfigError(message, hint=_HINT)

    def version(self) -> str:
        """See `RuntimeOpener.version`: onnxruntime's, whose build fixes TensorRT's."""
        import onnxruntime

        return str(onnxruntime.__version__)
