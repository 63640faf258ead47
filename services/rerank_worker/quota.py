"""Decides how much of a query and of a document is read when both do not fit; knows no model."""

from meshkit.errors import MeshError, Reason
from meshkit.texts import check_text
from modelkit.tokenizer import Tokenizer
from services.rerank_worker.request import RerankRequest


def share(num_query: int, num_document: int, room: int) -> tuple[int, int]:
    """How many tokens of each are kept.

    The document loses its end first. A query may take half of the room, and more only where the document leaves it
    over: so a long query never erases the document.
    """
    kept_query = min(num_query, max(room // 2, room - num_document))
    return kept_query, min(num_document, room - kept_query)


def check_request(request: RerankRequest) -> None:
    """Raises MeshError if there is nothing to look for, too long a text, or nothing of a document may be read."""
    if not request.query:
        raise MeshError(Reason.INVALID_REQUEST, "query is empty", param="query")
    if request.max_tokens_per_document == 0:
        message = "max_tokens_per_document is 0, must be at least 1"
        raise MeshError(Reason.INVALID_REQUEST, message, param="max_tokens_per_document")
    check_text(request.query, "query")
    for index, document in enumerate(request.documents):
        check_text(document, f"documents[{index}]")


def cut_text(tokenizer: Tokenizer, text: str, max_tokens: int | None) -> tuple[str, int]:
    """The text of its first max_tokens tokens, and how many were dropped; a letter that is cut apart goes whole."""
    if max_tokens is None:
        return text, 0
    ids = tokenizer.encode(text)
    if len(ids) <= max_tokens:
        return text, 0
    kept = b"".join(map(tokenizer.token_bytes, ids[:max_tokens]))
    return kept.decode("utf-8", errors="ignore"), len(ids) - max_tokens
