"""What callers of `llm.llm_engine` may look at: the configuration in use, under its customary names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.config import EngineConfig, PoolerConfig
    from assay.hf_config import HFConfig


@dataclass(frozen=True, slots=True)
class ModelView:
    """`llm.llm_engine.model_config`."""

    model: str
    architecture: str
    hf_config: HFConfig
    pooler_config: PoolerConfig
    dtype: str
    max_model_len: int
    supported_tasks: tuple[str, ...]
    attn_type: str = "encoder_only"
    is_chunked_prefill_supported: bool = False
    is_prefix_caching_supported: bool = False

    @property
    def hf_text_config(self) -> HFConfig:
        """The same as hf_config: text models have one config."""
        return self.hf_config

    @property
    def architectures(self) -> list[str]:
        """What config.json lists."""
        return self.hf_config.architectures

    @property
    def served_model_name(self) -> str:
        """The model's name as it was given."""
        return self.model


@dataclass(frozen=True, slots=True)
class VllmView:
    """`llm.llm_engine.vllm_config`."""

    model_config: ModelView
    scheduler_config: EngineConfig


@dataclass(frozen=True, slots=True)
class EngineView:
    """`llm.llm_engine`."""

    vllm_config: VllmView

    @property
    def model_config(self) -> ModelView:
        """The model's part of the configuration."""
        return self.vllm_config.model_config
