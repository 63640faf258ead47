"""Decides what the gateway reads from its environment; nothing else reads it."""

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.gateway.catalog import ServedModel


class GatewaySettings(BaseSettings):
    """Everything the gateway reads from its environment, as GATEWAY_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True)

    host: str = "127.0.0.1"
    http_port: int = Field(ge=0, le=65535)  # 0 takes any free port
    grpc_port: int = Field(ge=0, le=65535)
    upstream: str = Field(pattern=r"^.+:\d+$")  # host:port of Envoy's internal listener
    models: tuple[ServedModel, ...]
    max_body_bytes: int = Field(default=8 * 1024 * 1024, gt=0)
    request_timeout_s: float = Field(default=600.0, gt=0)
    leave_s: float = Field(
        default=0.0, ge=0
    )  # how long a shutdown still takes requests, after it has said that it leaves
    drain_timeout_s: float = Field(default=30.0, gt=0)  # how long a shutdown waits for running answers

    @field_validator("models")
    @classmethod
    def _ids_are_unique(cls, models: tuple[ServedModel, ...]) -> tuple[ServedModel, ...]:
        ids = [model.id for model in models]
        if len(set(ids)) != len(ids):
            raise ValueError(f"an id is there twice: {', '.join(ids)}")
        return models
