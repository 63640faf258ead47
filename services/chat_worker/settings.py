"""Everything the chat worker reads from its environment."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelkit.precision import Precision


class ChatSettings(BaseSettings):
    """Settings of one chat worker; each field is an environment variable CHAT_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="CHAT_", frozen=True, protected_namespaces=())

    model_id: str = Field(default="zhinao-chat", description="Served model id.")
    model_path: Path = Field(description="Checkpoint folder.")
    dtype: Precision = Field(
        default=Precision.AUTO,
        description="Number format of the weights: auto, fp32, fp16, bf16, int8 or int4; auto is int8 where the C++ "
        "step computes, bf16 on a GPU, else fp32. A GPU takes no int8 or int4.",
    )
    max_model_len: int | None = Field(
        default=None, gt=1, description="Window in tokens, prompt and answer together; the checkpoint's own if unset."
    )
    block_len: int = Field(default=32, gt=0, description="Tokens per KV-cache block.")
    kv_windows: int = Field(default=4, gt=0, description="Windows the KV cache holds; memory is used as it fills.")
    kv_memory_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of the memory free beside the weights that the KV cache may take."
    )
    max_step_tokens: int = Field(default=512, gt=0, description="Tokens computed in one engine step at most.")
    max_running: int = Field(default=64, gt=0, description="Sequences decoded together at most.")
    max_requests: int = Field(default=512, gt=0, description="Requests in progress, waiting ones included, at most.")
    max_waiting_tokens: int = Field(
        default=262_144, gt=0, description="Prompt tokens that may wait; one prompt alone always may."
    )
    prefix_cache: bool = Field(default=True, description="Keep what was computed for prompts that begin alike.")
    speculate: bool = Field(default=True, description="Guess tokens ahead where a request does not say.")
