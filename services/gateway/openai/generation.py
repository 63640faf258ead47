"""Decides which fields the chat and completion requests share and what values they take; knows no protobuf."""

from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from services.gateway.openai.fields import Text, only

UINT32_MAX: Final = 2**32 - 1

Tokens = Annotated[int, Field(ge=1, le=UINT32_MAX)]
StopTexts = Annotated[list[Text], Field(max_length=16)]


class StreamOptions(BaseModel):
    """How a stream is to be sent."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


def _to_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class GenerationFields(BaseModel):
    """What both requests share. Null means absent everywhere; unknown fields are kept in model_extra.

    Source: OpenAI's API reference; max_new_tokens, do_sample, top_k and repetition_penalty are the original 360Zhinao
    API's; truncate_prompt is ours.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: Text | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    max_new_tokens: Tokens | None = None
    stop: Annotated[StopTexts | None, BeforeValidator(_to_list)] = None

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=UINT32_MAX)  # 0 and -1 keep all tokens
    do_sample: bool | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**64 - 1)
    truncate_prompt: bool | None = None

    repetition_penalty: Annotated[float | None, only(1)] = None
    presence_penalty: Annotated[float | None, only(0)] = None
    frequency_penalty: Annotated[float | None, only(0)] = None
    logit_bias: Annotated[object, only({})] = None
    n: Annotated[int | None, only(1)] = None
    response_format: Annotated[object, only({"type": "text"})] = None

    # Accepted and without effect here: they steer a hosted service.
    user: object = None
    metadata: object = None
    service_tier: object = None
    store: Annotated[bool | None, only(False)] = None

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether the stream ends with a chunk that holds only the usage."""
        return self.stream_options is not None and self.stream_options.include_usage is True
