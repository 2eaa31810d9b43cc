"""All settings: one frozen, typed tree."""

from typing import Literal

from corellarec.config.cascade import CascadeConfig, EvaluateConfig
from corellarec.config.crm import CrmConfig
from corellarec.config.data import DataConfig
from corellarec.config.llm import AlignConfig, LlmConfig
from corellarec.config.section import Section, Seed
from corellarec.config.training import DistillConfig, Stage1Config, Stage2Config, Stage3Config


class Config(Section):
    """Everything a run depends on."""

    seed: Seed = 0
    """Seed of every random choice."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models run."""
    data: DataConfig = DataConfig()
    crm: CrmConfig = CrmConfig()
    llm: LlmConfig = LlmConfig()
    align: AlignConfig = AlignConfig()
    stage1: Stage1Config = Stage1Config()
    stage2: Stage2Config = Stage2Config()
    stage3: Stage3Config = Stage3Config()
    distill: DistillConfig = DistillConfig()
    cascade: CascadeConfig = CascadeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
