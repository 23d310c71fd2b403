"""The pipeline file as typed, frozen values, and the only reader of the environment.

Decides: keys, defaults, ranges, units, what `scale` does, which fields are semantic. Leaves to others: what the values mean.
"""

from foundry_ray.config.environment import Settings, SigningKeys, settings, signing_keys
from foundry_ray.config.export import CardConfig, ExportConfig
from foundry_ray.config.gates import AttackGate, CorruptionGate, CorruptionKind, GatesConfig
from foundry_ray.config.loading import load_config, overridden, parse_params, read_yaml, semantic, store_config, validate
from foundry_ray.config.scale import apply_scale
from foundry_ray.config.section import Section
from foundry_ray.config.sections import (
    BudgetConfig,
    CleanConfig,
    DataConfig,
    LatencyConfig,
    LimitsConfig,
    ObjectiveConfig,
    PipelineConfig,
    SchedulerConfig,
    SearchConfig,
    ServeConfig,
    SloConfig,
    SplitConfig,
    StudentConfig,
    TextConfig,
    TrialConfig,
)
from foundry_ray.config.store import RetentionConfig, StoreConfig, StoreField
from foundry_ray.config.training import (
    AdversarialConfig,
    CheckpointConfig,
    DeepSpeedConfig,
    LossScaleConfig,
    ModelConfig,
    OffloadConfig,
    TeacherConfig,
    TrainConfig,
)
from foundry_ray.plugins import IMPORT

__all__ = [
    "IMPORT",
    "AdversarialConfig",
    "AttackGate",
    "BudgetConfig",
    "CardConfig",
    "CheckpointConfig",
    "CleanConfig",
    "CorruptionGate",
    "CorruptionKind",
    "DataConfig",
    "DeepSpeedConfig",
    "ExportConfig",
    "GatesConfig",
    "LatencyConfig",
    "LimitsConfig",
    "LossScaleConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OffloadConfig",
    "PipelineConfig",
    "RetentionConfig",
    "SchedulerConfig",
    "SearchConfig",
    "Section",
    "ServeConfig",
    "Settings",
    "SigningKeys",
    "SloConfig",
    "SplitConfig",
    "StoreConfig",
    "StoreField",
    "StudentConfig",
    "TeacherConfig",
    "TextConfig",
    "TrainConfig",
    "TrialConfig",
    "apply_scale",
    "load_config",
    "overridden",
    "parse_params",
    "read_yaml",
    "semantic",
    "settings",
    "signing_keys",
    "store_config",
    "validate",
]
