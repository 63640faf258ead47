"""Names the shape of answers and of streamed events in OpenAI's Responses API."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from services.gateway.openai.formats import JsonObject

Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(TypedDict):
    """The text of a message, or of the thinking before it, which has neither annotations nor log-probabilities."""

    type: Literal["output_text", "reasoning_text"]
    text: str
    annotations: NotRequired[list[object]]
    logprobs: NotRequired[list[object]]


class OutputItem(TypedDict):
    """A message, thinking, or a call of a function."""

    id: str
    type: Literal["message", "reasoning", "function_call"]
    status: Status
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[list[OutputText]]
    summary: NotRequired[list[object]]
    call_id: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]


class InputDetails(TypedDict):
    """cached_tokens: prompt tokens that were not computed again. Writing to the cache costs nothing."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(TypedDict):
    """reasoning_tokens: tokens of the thinking."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens that the request cost."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(TypedDict):
    """Why an answer was cut short."""

    reason: Literal["max_output_tokens"]


class ResponseBody(TypedDict):
    """A whole answer, with what was asked for; while it streams, what there is of it."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    error: JsonObject | None  # always null: a failure has a body of its own
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None
    instructions: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    parallel_tool_calls: bool
    tool_choice: str | JsonObject
    tools: list[JsonObject]
    text: JsonObject
    truncation: str
    previous_response_id: str | None  # always null, as nothing is kept
    store: Literal[False]
    metadata: dict[str, str]
    system_fingerprint: str


class Place(TypedDict):
    """Which item an event tells of."""

    item_id: str
    output_index: int


class EventFields(TypedDict, total=False):
    """What events hold; which of it, depends on their type."""

    response: ResponseBody
    output_index: int
    item: OutputItem
    item_id: str
    content_index: int
    part: OutputText
    delta: str
    text: str
    arguments: str
    name: str
    logprobs: list[object]


class ResponseEvent(EventFields):
    """One event of a streamed answer."""

    type: str
    sequence_number: int
