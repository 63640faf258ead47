"""Decides which fields the chat and completion requests share and what values they take; knows no protobuf."""

from typing import Annotated, Final, Literal, cast

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from meshkit.wire import MOST_ANSWERS
from services.gateway.openai.fields import UINT32_MAX, Items, Part, RequestBody, TextOrTexts, only, renamed
from services.gateway.openai.formats import ResponseFormat, StructuredOutputs

_MOST_IDS: Final = 1024  # in one list

Tokens = Annotated[int, Field(ge=1, le=UINT32_MAX)]
TokenIds = Annotated[Items[Annotated[int, Field(ge=0, le=UINT32_MAX)]], Field(max_length=_MOST_IDS)]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_SentBias = Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], _Bias], Field(max_length=_MOST_IDS)]


FinishReasonWord = Literal["stop", "length", "tool_calls"]


class StreamOptions(Part):
    """How a stream is to be sent."""

    include_usage: bool | None = None


def _to_bias(value: object) -> object:
    """Read keys as token ids: JSON has only texts for keys."""
    if not isinstance(value, dict):
        return value
    biases = cast("dict[object, object]", value)
    if len(biases) > _MOST_IDS:
        counts = {"most": _MOST_IDS, "n": len(biases)}
        raise PydanticCustomError("too_many", "must hold at most {most} token ids, it holds {n}", counts)
    return {_to_token_id(key): bias for key, bias in biases.items()}


def _to_token_id(key: object) -> int:
    text = str(key)
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= UINT32_MAX:
        return int(text)
    raise PydanticCustomError("token_id", "must have token ids for keys, got {key}", {"key": ascii(text[:60])})


class GenerationFields(RequestBody):
    """What both requests share.

    Source: OpenAI's API reference; max_new_tokens, do_sample, top_k and repetition_penalty are the original 360Zhinao
    API's; min_p, min_tokens, ignore_eos, stop_token_ids, allowed_token_ids, bad_words, prompt_logprobs and
    structured_outputs are vLLM's;
    bad_token_ids, truncate_prompt, priority and speculate are ours.
    """

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    max_new_tokens: Tokens | None = None
    min_tokens: int | None = Field(default=None, ge=0, le=UINT32_MAX)
    stop: Annotated[TextOrTexts, Field(max_length=16)] | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=UINT32_MAX)  # 0 and -1 keep all tokens
    min_p: float | None = Field(default=None, ge=0, le=1)
    do_sample: bool | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
    truncate_prompt: bool | None = None

    n: int | None = Field(default=None, ge=1, le=MOST_ANSWERS)
    prompt_logprobs: int | None = Field(default=None, ge=0, le=20)
    priority: Literal["interactive", "bulk"] | None = None
    speculate: bool | None = None

    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: Annotated[
        Annotated[dict[int, _Bias], Field(fail_fast=True)] | None,
        BeforeValidator(_to_bias, json_schema_input_type=_SentBias | None),
    ] = None
    bad_token_ids: TokenIds | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Annotated[object, only([])] = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Annotated[object, renamed("structured_outputs.json")] = None
    guided_regex: Annotated[object, renamed("structured_outputs.regex")] = None
    guided_choice: Annotated[object, renamed("structured_outputs.choice")] = None
    guided_grammar: Annotated[object, renamed("structured_outputs.grammar")] = None

    # What would make another answer, or keep it. Fields that would do neither are left to model_extra.
    store: Annotated[object, only(False)] = None
    use_beam_search: Annotated[object, only(False)] = None
    length_penalty: Annotated[object, only(1)] = None
    add_special_tokens: Annotated[object, only(None)] = None
    skip_special_tokens: Annotated[object, only(True)] = None
    spaces_between_special_tokens: Annotated[object, only(True)] = None
    include_stop_str_in_output: Annotated[object, only(False)] = None
    truncate_prompt_tokens: Annotated[object, renamed("truncate_prompt")] = None

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether the stream ends with a chunk that holds only the usage."""
        return self.stream_options is not None and self.stream_options.include_usage is True
