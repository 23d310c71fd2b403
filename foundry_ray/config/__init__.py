"""The pipeline file as typed, frozen values, and the only reader of the environment.

Decides: keys, defaults, ranges, units, what `scale` does, which fields are semantic. Leaves to others: what the values mean.
"""

from foundry_ray.config.environment import Settings, settings
from foundry_ray.config.loading import load_config, parse_params, read_yaml, semantic, validate
from foundry_ray.config.scale import apply_scale
from foundry_ray.config.sections import (
    BudgetConfig,
    CleanConfig,
    DataConfig,
    DeepSpeedConfig,
    GatesConfig,
    LatencyConfig,
    LimitsConfig,
    ModelConfig,
    ObjectiveConfig,
    PipelineConfig,
    SchedulerConfig,
    SearchConfig,
    Section,
    ServeConfig,
    SloConfig,
    SplitConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)

__all__ = [
    "BudgetConfig",
    "CleanConfig",
    "DataConfig",
    "DeepSpeedConfig",
    "GatesConfig",
    "LatencyConfig",
    "LimitsConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PipelineConfig",
    "SchedulerConfig",
    "SearchConfig",
    "Section",
    "ServeConfig",
    "Settings",
    "SloConfig",
    "SplitConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
    "apply_scale",
    "load_config",
    "parse_params",
    "read_yaml",
    "semantic",
    "settings",
    "validate",
]
