"""Decides what the gateway reads from its environment; nothing else reads it."""

import ipaddress
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshkit.settings import MAX_BODY_BYTES
from services.gateway.catalog import ServedModel


class GatewaySettings(BaseSettings):
    """Everything the gateway reads from its environment, as GATEWAY_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True)

    host: str = "127.0.0.1"
    http_port: int = Field(ge=0, le=65535)  # 0 takes any free port
    grpc_port: int = Field(ge=0, le=65535)
    upstream: str = Field(pattern=r"^.+:\d+$")  # host:port of Envoy's internal listener
    models: tuple[ServedModel, ...]
    max_body_bytes: int = Field(default=MAX_BODY_BYTES, gt=0)
    request_timeout_s: float = Field(default=600.0, gt=0)
    leave_s: float = Field(
        default=0.0, ge=0
    )  # how long a shutdown still takes requests, after it has said that it leaves
    drain_timeout_s: float = Field(default=30.0, gt=0)  # how long a shutdown waits for running answers
    database_url: SecretStr | None = None  # of keys and usage; unset asks for no keys
    redis_url: SecretStr | None = None  # where several gateways count together
    insecure_no_keys: bool = False
    cors_origins: tuple[str, ...] = ()  # of web pages whose scripts may ask from their visitors' browsers
    assumed_answer_tokens: int = Field(default=1024, gt=0)  # reserved where the client sets no max_tokens

    @field_validator("models")
    @classmethod
    def _ids_are_unique(cls, models: tuple[ServedModel, ...]) -> tuple[ServedModel, ...]:
        ids = [model.id for model in models]
        if len(set(ids)) != len(ids):
            raise ValueError(f"an id is there twice: {', '.join(ids)}")
        return models

    @model_validator(mode="after")
    def _is_closed_or_local(self) -> Self:
        if self.database_url is None and not self.insecure_no_keys and not _is_loopback(self.host):
            raise ValueError(
                f"GATEWAY_HOST {self.host} is reachable from outside and no keys are asked for: set "
                "GATEWAY_DATABASE_URL, or GATEWAY_INSECURE_NO_KEYS=true to serve everybody"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
