"""The step `runtime`: what runs the student's file, on how many threads, in which precision.

It changes no weight and no byte of the file. The student's latency is measured in its runtime, its answers on test are taken in it, its signature
names it, and predict and serving follow the signature. At rungs a student whose file holds or is computed in other numbers than fp32 is judged in it
too (on a GPU, fp32 products of int8 students are imitated there); in fp32 runtimes differ by rounding alone, and how many predictions of val that
changes is stated when the student is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from foundry_ray.compression import steps
from foundry_ray.compression.recipes import quantized_bits
from foundry_ray.config import Section
from foundry_ray.errors import ConfigError, RecipeInfeasible
from foundry_ray.inference import check_precision, check_runtime
from foundry_ray.protocols import Given, RuntimeChoice
from foundry_ray.types import CompressionRecipe, Scalar

if TYPE_CHECKING:
    from torch import nn


class RuntimeParams(Section):
    """What runs the file."""

    name: str = Field("onnxruntime", description="A registered runtime: onnxruntime, openvino or tensorrt.")
    threads: int = Field(0, ge=0, le=256, description="Threads inside one operator; 0: those that the pipeline measures with.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Of products of fp32 numbers, where the runtime has it.")


@steps.register("runtime")
class Runtime:
    """See the module's docstring."""

    kind = "runtime"

    def check(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """See `Compressor.check`. Whether this machine has the runtime is asked by `apply`, where the student is made."""
        checked = steps.checked(RuntimeParams, params, kind=self.kind)
        choice = _choice(checked)
        try:
            check_precision(choice.name, choice.precision)
        except ConfigError as error:
            raise _infeasible(error) from error
        return checked

    def check_beside(self, params: Mapping[str, Scalar], recipe: CompressionRecipe) -> None:
        """See `LooksAtRecipe.check_beside`. TensorRT takes signed integers without a zero point alone, and activations of our files are unsigned."""
        quantize = recipe.step("quantize")
        if params["name"] == "tensorrt" and quantize is not None and int(quantize.params["bits"]) < 16:
            reason = f"runtime tensorrt with {quantize.params['bits']}-bit weights, wanted 16 or 32: it does not take the integers of our files"
            raise RecipeInfeasible(f"recipe: {reason}.", hint="`runtime_precision: bf16` is fast there.", recipe="runtime", reason=reason)

    def apply(self, model: nn.Module, params: Mapping[str, Scalar], *, given: Given) -> nn.Module:
        """The model as it is. Raises RecipeInfeasible where this machine cannot run it so."""
        choice = _choice(self.check(params))
        try:
            check_runtime(choice.name, choice.precision)
        except ConfigError as error:
            raise _infeasible(error) from error
        return model


def runtime_of(recipe: CompressionRecipe) -> RuntimeChoice:
    """What a checked recipe names; the default one where it names none."""
    step = recipe.step("runtime")
    return _choice(step.params) if step else RuntimeChoice()


def is_changed(recipe: CompressionRecipe) -> bool:
    """Whether what answers when the student is served differs from its model in torch by more than rounding of fp32."""
    return quantized_bits(recipe) != 32 or runtime_of(recipe).precision != "fp32"


def _choice(params: Mapping[str, Scalar]) -> RuntimeChoice:
    return RuntimeChoice(name=str(params["name"]), threads=int(params["threads"]), precision="bf16" if params["precision"] == "bf16" else "fp32")


def _infeasible(error: ConfigError) -> RecipeInfeasible:
    return RecipeInfeasible(f"recipe step runtime: {error.message}", hint=error.hint, recipe="runtime", reason=error.message)
