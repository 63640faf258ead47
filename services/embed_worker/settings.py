"""Everything the embedding worker reads from its environment."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from modelkit.precision import Precision
from workerkit.settings import UnarySettings


class EmbedSettings(UnarySettings):
    """Settings of one embedding worker; each field is an environment variable EMBED_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="EMBED_", frozen=True, protected_namespaces=())

    model_id: str = Field(default="zhinao-embed", description="Served model id.")
    dtype: Precision = Field(
        default=Precision.AUTO, description="Number format of the weights: auto, fp32, bf16 or int8."
    )
    max_inputs: int = Field(default=2048, gt=0, description="Inputs of one request at most.")
