"""Translates what chat and completion requests share into protobuf; what the client left out stays unset."""

from meshkit.errors import MeshError, Reason
from services.gateway.openai.generation import GenerationFields
from services.gateway.openai.usage import UsageBody
from services.gateway.translate.head import Head
from zhinao.chat.v1.chat_pb2 import FINISH_REASON_LENGTH, FinishReason, GenerateRequest, SamplingParams, StopConditions
from zhinao.common.v1.common_pb2 import Usage


def to_generate_request(body: GenerationFields, head: Head, *, top_logprobs: int | None) -> GenerateRequest:
    """Everything but the prompt. Raises MeshError where two fields contradict each other."""
    if body.stream_options is not None and not body.stream:
        raise _invalid("stream_options is only allowed when stream is true", "stream_options")
    return GenerateRequest(
        request_id=head.request_id,
        model=head.model,
        sampling=SamplingParams(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=None if body.top_k is None else max(body.top_k, 0),
            do_sample=body.do_sample,
            seed=head.seed,
        ),
        stop=StopConditions(
            max_tokens=_max_tokens(body),
            texts=[text for text in body.stop or () if text],  # the seed's own curl sends an empty one
        ),
        top_logprobs=top_logprobs,
        truncate_prompt=bool(body.truncate_prompt),
    )


def to_seed(seed: int) -> int:
    """Clients may send a signed 64-bit seed; protobuf's is unsigned."""
    return seed % 2**64


def to_finish_reason(reason: FinishReason.ValueType) -> str:
    """OpenAI's word for why an answer ended."""
    return "length" if reason == FINISH_REASON_LENGTH else "stop"


def to_usage(usage: Usage) -> UsageBody:
    """OpenAI's count of tokens."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _max_tokens(body: GenerationFields) -> int | None:
    names = ("max_tokens", "max_completion_tokens", "max_new_tokens")
    given = {name: value for name in names if (value := getattr(body, name)) is not None}
    if len(set(given.values())) > 1:
        spelled = ", ".join(f"{name} {value}" for name, value in given.items())
        raise _invalid(f"the limits on new tokens contradict each other: {spelled}", list(given)[-1])
    return next(iter(given.values()), None)


def _invalid(message: str, param: str) -> MeshError:
    return MeshError(Reason.INVALID_REQUEST, message, param=param)
