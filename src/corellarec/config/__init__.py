"""Settings: one frozen, typed tree, read from presets, TOML files and ``--set``."""

from corellarec.config.cascade import CascadeConfig, EvaluateConfig
from corellarec.config.crm import (
    CRM_MODELS,
    CrmConfig,
    ExternalConfig,
    MemberConfig,
    NetworkConfig,
)
from corellarec.config.data import (
    DataConfig,
    FeaturesConfig,
    InteractionsConfig,
    ItemsConfig,
    NegativesConfig,
    TableConfig,
)
from corellarec.config.llm import AlignConfig, LlmConfig, LoraConfig
from corellarec.config.load import (
    changed,
    load_config,
    parse_config,
    preset_names,
    settings_tree,
    to_toml,
    with_settings,
)
from corellarec.config.schema import Config
from corellarec.config.section import Section
from corellarec.config.training import (
    DistillConfig,
    LlmStageConfig,
    Stage1Config,
    Stage2Config,
    Stage3Config,
    StageConfig,
)

__all__ = [
    "CRM_MODELS",
    "AlignConfig",
    "CascadeConfig",
    "Config",
    "CrmConfig",
    "DataConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExternalConfig",
    "FeaturesConfig",
    "InteractionsConfig",
    "ItemsConfig",
    "LlmConfig",
    "LlmStageConfig",
    "LoraConfig",
    "MemberConfig",
    "NegativesConfig",
    "NetworkConfig",
    "Section",
    "Stage1Config",
    "Stage2Config",
    "Stage3Config",
    "StageConfig",
    "TableConfig",
    "changed",
    "load_config",
    "parse_config",
    "preset_names",
    "settings_tree",
    "to_toml",
    "with_settings",
]
