"""Everything that workers read from their environment about how much they take on; the prefix is each worker's own."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


class UnarySettings(BaseSettings):
    """What a worker that answers each request with one response needs beside what is its own."""

    model_id: str = Field(description="Served model id.")
    model_path: Path = Field(description="Checkpoint folder.")
    max_batch_tokens: int = Field(default=4096, gt=0, description="Tokens computed in one batch at most.")
    max_requests: int = Field(default=512, gt=0, description="Requests in progress, waiting ones included, at most.")
    max_waiting_tokens: int = Field(
        default=2_097_152, gt=0, description="Tokens that may wait; one request alone always may."
    )
    max_request_tokens: int = Field(default=1_048_576, gt=0, description="Tokens of one request at most.")
