"""Decides how a whole answer and a streamed one leave a handler, and names the fields that had no effect."""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

import orjson
from starlette.responses import Response

from services.gateway.call import CURRENT
from services.gateway.openai.fields import RequestBody
from services.gateway.sse import EventStream

_HEADER: Final = "x-ignored-params"
_SAFE_NAME: Final = re.compile(r"[\w.\[\]-]{1,64}", re.ASCII)
_MOST_NAMES: Final = 16


def whole(content: Mapping[str, object] | Sequence[object], body: RequestBody) -> Response:
    """The answer in one piece. Arrays of numpy are written as lists, with the digits that their own type needs."""
    data = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return _named(Response(data, media_type="application/json"), body)


async def streamed(
    chunks: AsyncGenerator[Mapping[str, object], None], body: RequestBody, form: type[EventStream] = EventStream
) -> Response:
    """The answer as server-sent events, once its first chunk is there."""
    return _named(await form.open(chunks), body)


def _named(response: Response, body: RequestBody) -> Response:
    ignored = [name for name in (*body.ignored(), *CURRENT.get().ignored) if _SAFE_NAME.fullmatch(name)]
    if ignored:
        response.headers[_HEADER] = ", ".join(ignored[:_MOST_NAMES])
    return response
