"""Translates what chat and completion requests share into protobuf; what the client left out stays unset."""

from collections.abc import Iterable, Mapping
from typing import Final

from meshkit.errors import MeshError, Reason
from services.gateway.openai.generation import FinishReasonWord, GenerationFields
from services.gateway.openai.usage import UsageBody
from services.gateway.translate.formats import to_output_format
from services.gateway.translate.head import Head
from zhinao.chat.v1.chat_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_TOOL_CALLS,
    PRIORITY_BULK,
    PRIORITY_INTERACTIVE,
    PRIORITY_UNSPECIFIED,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    SamplingParams,
    StopConditions,
)

_PRIORITIES: Final = {None: PRIORITY_UNSPECIFIED, "interactive": PRIORITY_INTERACTIVE, "bulk": PRIORITY_BULK}

_FINISH_REASONS: Final[Mapping[int, FinishReasonWord]] = {
    FINISH_REASON_LENGTH: "length",
    FINISH_REASON_TOOL_CALLS: "tool_calls",
}


def to_generate_request(body: GenerationFields, head: Head, *, top_logprobs: int | None) -> GenerateRequest:
    """Everything but the prompt. Raises MeshError where two fields contradict each other."""
    if body.stream_options is not None and not body.stream:
        raise _invalid("stream_options is only allowed when stream is true", "stream_options")
    if body.prompt_logprobs is not None and body.stream:
        raise _invalid("prompt_logprobs is only allowed when stream is not true", "prompt_logprobs")
    return GenerateRequest(
        request_id=head.request_id,
        model=head.model,
        sampling=_to_sampling(body, head),
        stop=StopConditions(
            max_tokens=_max_tokens(body),
            texts=[text for text in body.stop or () if text],  # the curl in 360Zhinao's own README sends an empty one
            token_ids=body.stop_token_ids,
            min_tokens=body.min_tokens,
            ignore_eos=bool(body.ignore_eos),
        ),
        top_logprobs=top_logprobs,
        truncate_prompt=bool(body.truncate_prompt),
        n=body.n,
        prompt_logprobs=body.prompt_logprobs,
        priority=_PRIORITIES[body.priority],
        tenant=head.tenant,
        format=to_output_format(body.response_format, body.structured_outputs),
        speculate=body.speculate,
    )


def _to_sampling(body: GenerationFields, head: Head) -> SamplingParams:
    return SamplingParams(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        do_sample=body.do_sample,
        seed=head.seed,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=body.logit_bias,
        bad_token_ids=body.bad_token_ids,
        allowed_token_ids=body.allowed_token_ids,
    )


def to_seed(seed: int) -> int:
    """Clients may send a signed 64-bit seed; protobuf's is unsigned."""
    return seed % 2**64


def to_finish_reason(reason: FinishReason.ValueType) -> FinishReasonWord:
    """OpenAI's word for why an answer ended."""
    return _FINISH_REASONS.get(reason, "stop")


def to_usage(ends: Iterable[GenerateResponse]) -> UsageBody:
    """OpenAI's count of tokens, from the last pieces of all answers; a prompt counts with the first of its answers."""
    usages = [end.usage for end in ends]
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages)},
        "completion_tokens_details": {
            "reasoning_tokens": sum(usage.reasoning_tokens for usage in usages),
            "accepted_prediction_tokens": sum(usage.accepted_draft_tokens for usage in usages),
            "rejected_prediction_tokens": sum(usage.rejected_draft_tokens for usage in usages),
        },
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
