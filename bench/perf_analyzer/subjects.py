"""Decides what each kind of model is asked by perf_analyzer and what its answers count; runs nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bench.prompts import Prompts
from zhinao.chat.v1.chat_pb2 import GenerateRequest, GenerateResponse, SamplingParams, StopConditions, TokenPrompt
from zhinao.embedding.v1.embedding_pb2 import EmbedInput, EmbedRequest, EmbedResponse
from zhinao.rerank.v1.rerank_pb2 import RerankRequest, RerankResponse

_CHAT_LEN: Final = 64  # tokens of the prompt, and of the answer
_TEXT_LEN: Final = 64  # words, which are a little more tokens
_QUERY_LEN, _NUM_DOCUMENTS = 8, 8


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of model. options: of perf_analyzer. ask: one serialised request. num_tokens: that its responses count."""

    work: str
    options: Sequence[str]
    ask: Callable[[Prompts], bytes]
    num_tokens: Callable[[Sequence[bytes]], int]


def ask_chat(prompts: Prompts) -> bytes:
    """For exactly so many tokens, greedy and without guessing ahead."""
    return GenerateRequest(
        tokens=TokenPrompt(ids=prompts.take(_CHAT_LEN)),
        sampling=SamplingParams(temperature=0),
        stop=StopConditions(max_tokens=_CHAT_LEN, ignore_eos=True),
        speculate=False,
    ).SerializeToString()


def ask_embed(prompts: Prompts) -> bytes:
    """One text, as a query is."""
    return EmbedRequest(inputs=[EmbedInput(text=prompts.take_text(_TEXT_LEN))]).SerializeToString()


def ask_rerank(prompts: Prompts) -> bytes:
    """A short query and some documents."""
    documents = [prompts.take_text(_TEXT_LEN) for _ in range(_NUM_DOCUMENTS)]
    return RerankRequest(query=prompts.take_text(_QUERY_LEN), documents=documents).SerializeToString()


def count_written(payloads: Sequence[bytes]) -> int:
    """Tokens of a chat answer. Raises ValueError if it is not complete."""
    last = GenerateResponse.FromString(payloads[-1]) if payloads else GenerateResponse()
    if not last.finish_reason:
        raise ValueError(f"an answer of {len(payloads)} responses is not complete")
    return last.usage.completion_tokens


def count_embedded(payloads: Sequence[bytes]) -> int:
    """Tokens that were embedded. Raises ValueError if there is no vector."""
    response = EmbedResponse.FromString(b"".join(payloads))
    if not response.embeddings:
        raise ValueError(f"an answer of {len(payloads)} responses is not complete")
    return response.usage.prompt_tokens


def count_scored(payloads: Sequence[bytes]) -> int:
    """Tokens that were scored. Raises ValueError if a score is missing."""
    response = RerankResponse.FromString(b"".join(payloads))
    if len(response.scores) != _NUM_DOCUMENTS:
        raise ValueError(f"an answer of {len(payloads)} responses is not complete")
    return response.usage.prompt_tokens


_STREAMED: Final = ("--streaming", "--async")

SUBJECTS: Final[Mapping[str, Subject]] = MappingProxyType(
    {
        "chat": Subject(f"{_CHAT_LEN} + {_CHAT_LEN} tokens, streamed", _STREAMED, ask_chat, count_written),
        "embed": Subject(f"one text of {_TEXT_LEN} words", ("--async",), ask_embed, count_embedded),
        "rerank": Subject(
            f"{_QUERY_LEN} words and {_NUM_DOCUMENTS} documents of {_TEXT_LEN}", ("--async",), ask_rerank, count_scored
        ),
    }
)
