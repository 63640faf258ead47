"""What no answer may be, whatever is asked. Schemathesis loads this file by its variable SCHEMATHESIS_HOOKS."""

import json

import schemathesis
from schemathesis import Case, CheckContext, DeserializationContext, HookContext, Response

_ENDED = {"/v1/chat/completions": True, "/v1/completions": True, "/v1/responses": False}  # by `[DONE]`, if all is well


@schemathesis.check
def is_answered(ctx: CheckContext, response: Response, case: Case) -> None:
    """No failure of the mesh: its worker answers everything. A client may give too little time, though."""
    ran_out = response.status_code == 504 and "x-request-timeout" in (case.headers or {})
    assert response.status_code < 500 or ran_out, f"answered {response.status_code}"
    assert response.headers.get("x-request-id"), "the answer does not name its request"


@schemathesis.hook
def map_body(ctx: HookContext, body: object) -> object:
    """Half of what leaves it open is streamed: left to chance, hardly a request is both streamed and accepted."""
    streams = ctx.operation is not None and ctx.operation.path in _ENDED
    if streams and isinstance(body, dict) and body.get("stream") is None and len(repr(body)) % 2:
        return {**body, "stream": True}
    return body


@schemathesis.deserializer("text/event-stream")
def payloads(ctx: DeserializationContext, response: Response) -> list[object]:
    """The JSON of each event: that is what the document describes, as OpenAI's own does.

    Left to itself Schemathesis holds an event's frame, `{"event": ..., "data": "<text>"}`, against the schema of its
    data, so that no event at all would fit. Lines end here wherever a client may see an end, U+2028 for one.
    """
    lines = response.content.decode().splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    done = data[-1:] == ["[DONE]"]
    events = [json.loads(text) for text in data[: -1 if done else None]]
    assert events, "no event came"
    ends = _ENDED[ctx.operation.path] and "error" not in events[-1]
    assert done == ends or response.stream_cut_short, f"the last event is {data[-1]:.200}"
    return events
