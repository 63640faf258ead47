"""Everything that any part of the mesh reads from its environment under a name that is not ours; shared defaults."""

from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MAX_BODY_BYTES: Final = 8 * 1024 * 1024  # of a request; where nothing else is said, at the edge and in a gateway


class TelemetrySettings(BaseSettings):
    """Where traces go; OpenTelemetry's SDK reads its other variables OTEL_* itself."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", frozen=True)

    exporter_otlp_endpoint: str | None = Field(default=None, description="Collector to send spans to over OTLP/HTTP.")
