"""The section of thresholds that a student must pass on test: what it may lose against its teacher, and what it must hold by itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic.config import JsonDict

from foundry_ray.config.section import Section

CorruptionKind = Literal["gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur", "motion_blur", "brightness", "contrast", "pixelate"]
_LATER: JsonDict = {"later": True}
"""Of a key that enters the stage key where it is set alone; see `semantic`."""
_ALL: tuple[CorruptionKind, ...] = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "gaussian_blur",
    "motion_blur",
    "brightness",
    "contrast",
    "pixelate",
)


class _RobustnessGate(Section):
    """What both robustness gates hold a student to."""

    min_accuracy: float | None = Field(None, ge=0, le=1, description="Least accuracy of the student on such images.")
    drop_points: float | None = Field(None, ge=0, le=100, description="Most points of accuracy that it may lie below its teacher on them.")

    @model_validator(mode="after")
    def _has_a_limit(self) -> _RobustnessGate:
        if self.min_accuracy is None and self.drop_points is None:
            raise ValueError("it has no limit; set min_accuracy or drop_points")
        return self


class CorruptionGate(_RobustnessGate):
    """Accuracy on damaged images (arXiv 1903.12261), a mean over kinds and severities. Each of them costs a pass over the rows by both models."""

    kinds: tuple[CorruptionKind, ...] = Field(_ALL, min_length=1, description="What is done to the images.")
    severities: tuple[int, ...] = Field((1, 3, 5), min_length=1, description="How strongly, each of 1 to 5.")
    max_rows: int = Field(1000, ge=1, description="Rows of the split, evenly spaced.")

    @model_validator(mode="after")
    def _severities_exist(self) -> CorruptionGate:
        if not all(1 <= severity <= 5 for severity in self.severities):
            raise ValueError(f"severities are {list(self.severities)}, but each must be 1 to 5")
        for name, chosen in (("severities", self.severities), ("kinds", self.kinds)):
            if len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} are {', '.join(map(str, chosen))}; name each once")
        return self


class AttackGate(_RobustnessGate):
    """Accuracy on images that were changed against the very weights that are judged. Needs the extra `robustness`."""

    kind: Literal["fgsm", "pgd"] = Field(description="fgsm: one step along the sign of the gradient (arXiv 1412.6572); pgd: several (1706.06083).")
    epsilon: int = Field(8, ge=1, le=255, description="Most that a pixel may be changed, of 255.")
    steps: int = Field(10, ge=1, le=1000, description="Of pgd.")
    max_rows: int = Field(500, ge=1, description="Rows of the split, evenly spaced.")

    @model_validator(mode="after")
    def _steps_have_a_reader(self) -> AttackGate:
        if self.kind == "fgsm" and self.steps != type(self).model_fields["steps"].default:
            raise ValueError(f"kind is fgsm with steps {self.steps}; fgsm takes one step")
        return self

    @property
    def name(self) -> str:
        """As in reports: `fgsm_8`, `pgd_8_10`."""
        return f"fgsm_{self.epsilon}" if self.kind == "fgsm" else f"pgd_{self.epsilon}_{self.steps}"


class GatesConfig(Section):
    """Thresholds that the student must pass on test; ratios are student / teacher. A key that is absent costs nothing."""

    accuracy_drop_points: float = Field(1.5, ge=0, le=100, description="Most points of accuracy that may be lost.")
    latency_ratio: float | None = Field(None, gt=0, description="Largest p50 ratio.")
    size_ratio: float | None = Field(None, gt=0, description="Largest ratio of served bytes.")
    params_ratio: float | None = Field(None, gt=0, description="Largest ratio of parameters.")
    min_agreement: float | None = Field(None, ge=0, le=1, description="Least share of equal predictions.")
    latency_p50_ms: float | None = Field(None, gt=0, description="Largest p50 of the student, in its runtime.", json_schema_extra=_LATER)
    latency_p95_ms: float | None = Field(None, gt=0, description="Largest p95 of the student, in its runtime.", json_schema_extra=_LATER)
    class_drop_points: float | None = Field(
        None, ge=0, le=100, description="Most points of accuracy that any one class may lose.", json_schema_extra=_LATER
    )
    calibration_error: float | None = Field(
        None, ge=0, le=1, description="Largest expected calibration error of the student, over 15 bins (arXiv 1706.04599).", json_schema_extra=_LATER
    )
    calibration_increase: float | None = Field(
        None, ge=-1, le=1, description="Most that the expected calibration error may lie above the teacher's.", json_schema_extra=_LATER
    )
    corruptions: CorruptionGate | None = Field(None, description="On images with noise, blur and the like.", json_schema_extra=_LATER)
    attacks: tuple[AttackGate, ...] = Field((), description="On adversarial images.", json_schema_extra=_LATER)

    @model_validator(mode="after")
    def _attacks_differ(self) -> GatesConfig:
        names = [attack.name for attack in self.attacks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"attacks holds {twice} {names.count(twice)} times; give one of them all its limits")
        return self
