"""Everything the reranking worker reads from its environment."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from modelkit.precision import Precision
from services.rerank_worker.ranker import DEFAULT_MAX_TOKENS
from workerkit.settings import UnarySettings


class RerankSettings(UnarySettings):
    """Settings of one reranking worker; each field is an environment variable RERANK_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="RERANK_", frozen=True, protected_namespaces=())

    model_id: str = Field(default="zhinao-rerank", description="Served model id.")
    dtype: Precision = Field(default=Precision.AUTO, description="Number format of the weights, as the chat worker's.")
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, ge=128, description="Tokens of one pair at most.")
    max_documents: int = Field(default=1000, gt=0, description="Documents of one request at most.")
