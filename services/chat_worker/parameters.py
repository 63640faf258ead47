"""Turns a request's parameters into sampling and stop conditions, or says what is wrong with them."""

from collections.abc import Collection, Mapping
from typing import Final

from meshkit.errors import MeshError, Reason
from services.chat_worker.defaults import GenerationDefaults
from services.chat_worker.engine.sequence import MAX_TOP_LOGPROBS, Sampling, Stop
from services.chat_worker.request import GenerationRequest

_MAX_STOP_TEXTS: Final = 16
_MAX_IDS: Final = 1024  # in one list


def read_stop(
    request: GenerationRequest, defaults: GenerationDefaults, control_ids: Mapping[str, int], *, vocab_size: int
) -> Stop:
    """When the answer ends, but for max_tokens, which the prompt decides: it is as asked for, or 0. Raises MeshError.

    A stop text that spells a control token matches the token, whose text never shows; empty ones are ignored.
    """
    texts = [text for text in request.stop_texts if text]
    if len(texts) > _MAX_STOP_TEXTS:
        raise _invalid(f"stop holds {len(texts)} texts; the most is {_MAX_STOP_TEXTS}", "stop")
    token_ids = _token_ids("stop_token_ids", request.stop_token_ids, vocab_size)
    token_ids |= {control_ids[text] for text in texts if text in control_ids}
    return Stop(
        max_tokens=request.max_tokens or 0,
        token_ids=token_ids if request.ignore_eos else token_ids | defaults.end_token_ids,
        texts=tuple(text for text in texts if text not in control_ids),
    )


def read_sampling(
    request: GenerationRequest, defaults: GenerationDefaults, stop: Stop, *, vocab_size: int, fallback_seed: int
) -> Sampling:
    """How tokens are chosen; fallback_seed is used where the request brings none. Raises MeshError."""
    if stop.max_tokens and request.min_tokens > stop.max_tokens:
        raise _invalid(f"min_tokens is {request.min_tokens}, but max_tokens is {stop.max_tokens}", "min_tokens")
    allowed = _token_ids("allowed_token_ids", request.allowed_token_ids, vocab_size)
    return Sampling(
        temperature=_within("temperature", _temperature(request, defaults), 0, 2),
        top_p=_positive("top_p", _given(request.top_p, defaults.top_p), 1),
        top_k=defaults.top_k if request.top_k is None else request.top_k,
        seed=fallback_seed if request.seed is None else request.seed,
        top_logprobs=_num_top("top_logprobs", request.top_logprobs),
        prompt_logprobs=_num_top("prompt_logprobs", request.prompt_logprobs),
        min_p=_within("min_p", _given(request.min_p, defaults.min_p), 0, 1),
        repetition_penalty=_positive(
            "repetition_penalty", _given(request.repetition_penalty, defaults.repetition_penalty), 2
        ),
        presence_penalty=_within("presence_penalty", request.presence_penalty, -2, 2),
        frequency_penalty=_within("frequency_penalty", request.frequency_penalty, -2, 2),
        logit_bias=_logit_bias(request.logit_bias, vocab_size),
        bad_token_ids=_token_ids("bad_token_ids", request.bad_token_ids, vocab_size),
        allowed_token_ids=allowed | stop.token_ids if allowed else allowed,
        min_tokens=request.min_tokens,
        end_token_ids=stop.token_ids,
    )


def _temperature(request: GenerationRequest, defaults: GenerationDefaults) -> float:
    if request.do_sample is False:
        return 0.0
    if request.do_sample is True and defaults.temperature == 0 and request.temperature is None:
        return 1.0  # the checkpoint is greedy by default and the caller wants to sample
    return _given(request.temperature, defaults.temperature)


def _given(asked: float | None, default: float) -> float:
    return default if asked is None else asked


def _within(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise _invalid(f"{name} is {value}; it must be between {low} and {high}", name)
    return value


def _positive(name: str, value: float, high: float) -> float:
    if not 0 < value <= high:
        raise _invalid(f"{name} is {value}; it must be above 0 and at most {high}", name)
    return value


def _num_top(name: str, value: int | None) -> int | None:
    if value is not None and value > MAX_TOP_LOGPROBS:
        raise _invalid(f"{name} is {value}; the most is {MAX_TOP_LOGPROBS}", name)
    return value


def _token_ids(name: str, token_ids: Collection[int], vocab_size: int) -> frozenset[int]:
    if len(token_ids) > _MAX_IDS:
        raise _invalid(f"{name} holds {len(token_ids)} token ids; the most is {_MAX_IDS}", name)
    for token_id in token_ids:
        if token_id >= vocab_size:
            raise _invalid(f"{name} holds {token_id}, which is outside the vocabulary of {vocab_size} ids", name)
    return frozenset(token_ids)


def _logit_bias(biases: Mapping[int, float], vocab_size: int) -> Mapping[int, float]:
    _token_ids("logit_bias", biases.keys(), vocab_size)
    for token_id, bias in biases.items():
        if not -100 <= bias <= 100:
            raise _invalid(f"logit_bias of {token_id} is {bias}; it must be between -100 and 100", "logit_bias")
    return biases


def _invalid(message: str, param: str) -> MeshError:
    return MeshError(Reason.INVALID_REQUEST, message, param=param)
