"""What a recipe may say of storage, which of it goes together, and the one form in which it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from foundry_ray.compression import steps
from foundry_ray.config import Section
from foundry_ray.errors import RecipeInfeasible
from foundry_ray.types import Json, Scalar

Bits = Literal[4, 8, 16, 32]
Scheme = Literal["static", "dynamic", "weight_only", "float"]
_BITS: Mapping[str, tuple[int, ...]] = {"static": (8,), "dynamic": (8,), "weight_only": (4, 8), "float": (16,)}
_SCHEME: Mapping[int, Scheme] = {4: "weight_only", 8: "static", 16: "float"}


class QuantizeParams(Section):
    """How numbers are stored in the served file."""

    bits: Bits = Field(description="Of a stored weight. 8: int8, of activations too; 4: int4 weights; 16: fp16 or bf16 weights; 32: fp32.")
    scheme: Scheme = Field(
        "static",
        description="static: int8 with ranges from training rows; dynamic: ranges as they come; weight_only; float. What suits bits.",
    )
    calibration: Literal["minmax", "entropy", "percentile"] = Field("minmax", description="How a range follows from training rows.")
    percentile: float = Field(99.99, gt=50, le=100, description="Percent of an activation's numbers that lie within its range.")
    calibration_seed: int | None = Field(None, ge=0, description="Draws the calibration rows from the training split; the first ones without it.")
    group: Literal[16, 32, 64, 128] = Field(32, description="Neighbouring weights that share a scale in 4 bits.")
    number: Literal["fp16", "bf16"] = Field("fp16", description="Format of 16-bit weights: fp16 is finer, bf16 has the range of fp32.")
    keep: str = Field("", description="Names of layers that stay in fp32, separated by commas.")
    accuracy_budget: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Points that the teacher may lose on held-back training rows; the layers that cost it most stay in fp32 until it does not.",
    )
    qat: bool = Field(False, description="Train with simulated int8, whose ranges are then shipped.")
    qat_from: float = Field(0.5, ge=0, lt=1, description="Share of the training after which int8 is simulated.")

    @model_validator(mode="before")
    @classmethod
    def _default_scheme(cls, values: Mapping[str, Json]) -> Mapping[str, Json]:
        bits = values.get("bits")
        return {"scheme": _SCHEME[int(bits)], **values} if isinstance(bits, (int, float)) and bits in _SCHEME else values

    @property
    def kept_names(self) -> tuple[str, ...]:
        """The layers in `keep`, in order, each once."""
        return tuple(sorted({name.strip() for name in self.keep.split(",")} - {""}))

    @property
    def needs_training_split(self) -> bool:
        """Whether rows are drawn from it or held back of it, beside those of the calibration."""
        return self.calibration_seed is not None or self.accuracy_budget is not None

    @property
    def label(self) -> str:
        """In a few words."""
        if self.scheme == "float":
            return self.number
        return {"static": "int8", "dynamic": "dynamic int8"}.get(self.scheme, f"int{self.bits} weights")


def checked_params(params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """The parameters that say something, in one form: what is at its default is left out. Raises RecipeInfeasible."""
    wanted = QuantizeParams.model_validate(steps.checked(QuantizeParams, params, kind="quantize"))
    reason = _contradiction(wanted, set(params))
    if reason:
        raise RecipeInfeasible(f"recipe step quantize: {reason}.", hint="take one of them out.", recipe="quantize", reason=reason)
    form = wanted.model_copy(update={"keep": ",".join(wanted.kept_names)}).model_dump(exclude_defaults=True)
    if wanted.scheme == _SCHEME.get(wanted.bits, "static"):
        form.pop("scheme", None)
    return form


def _contradiction(params: QuantizeParams, named: set[str]) -> str:
    """Why these do not go together; empty where they do."""
    if params.bits == 32:
        others = sorted(named - {"bits"})
        return f"bits is 32, which is fp32, but {', '.join(others)} is set" if others else ""
    if params.bits not in _BITS[params.scheme]:
        wanted = " or ".join(map(str, _BITS[params.scheme]))
        return f"scheme is {params.scheme}, which stores weights in {wanted} bits, but bits is {params.bits}"
    needs = {
        "calibration": (params.scheme == "static", "scheme: static, since no other has ranges to calibrate"),
        "calibration_seed": (params.scheme == "static", "scheme: static, since no other has ranges to calibrate"),
        "percentile": (params.calibration == "percentile", "calibration: percentile"),
        "group": (params.bits == 4, "bits: 4"),
        "number": (params.bits == 16, "bits: 16"),
        "qat_from": (params.qat, "qat: true"),
        "qat": (params.scheme == "static" or not params.qat, "scheme: static, since int8 that comes in training is static"),
    }
    for name, (holds, condition) in needs.items():
        if name in named and not holds:
            return f"{name} is set, but it needs {condition}"
    if params.qat and params.calibration != "minmax":
        return f"calibration is {params.calibration}, but with qat ranges are learnt in training"
    if params.qat and params.accuracy_budget is not None:
        return "accuracy_budget is set, but what the teacher loses says nothing of a student that is trained for int8: name the layers in keep"
    return ""
