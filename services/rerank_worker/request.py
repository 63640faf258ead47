"""The plain form of a rerank request inside the worker, and of what it becomes; decides nothing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """What is asked for. max_tokens_per_document: None for as many as the model reads."""

    query: str
    documents: tuple[str, ...]
    max_tokens_per_document: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a document as the network gets them.

    num_shared: how many of the first tokens other pairs of the request begin with too. targets: tokens whose
    likelihood after the pair is its score, for models that are read so; their last one is not in token_ids.
    truncated_tokens: of query and document, how many were dropped to fit.
    """

    token_ids: tuple[int, ...]
    num_shared: int
    truncated_tokens: int
    targets: tuple[int, ...] = ()
