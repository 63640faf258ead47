"""Decides how a whole answer and a streamed one leave a handler, and names the fields that had no effect."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import chain, islice
from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from services.gateway.call import CURRENT
from services.gateway.json_bytes import to_json_bytes
from services.gateway.openai.fields import RequestBody
from services.gateway.sse import EventStream

_HEADER: Final = "x-ignored-params"
_PLAIN: Final = ".[]-_"  # beside letters and digits; all else is percent-encoded
_LONGEST_NAME: Final = 64
_MOST_NAMES: Final = 16


def whole(content: Mapping[str, object] | Sequence[object], body: RequestBody) -> Response:
    """The answer in one piece."""
    return _named(Response(to_json_bytes(content), media_type="application/json"), body)


async def streamed(
    chunks: AsyncGenerator[Mapping[str, object], None], body: RequestBody, form: type[EventStream] = EventStream
) -> Response:
    """The answer as server-sent events, once its first chunk is there."""
    return _named(await form.open(chunks), body)


def _named(response: Response, body: RequestBody) -> Response:
    ignored = [*islice(chain(body.ignored(), CURRENT.get().ignored), _MOST_NAMES)]
    if ignored:
        response.headers[_HEADER] = ", ".join(quote(name[:_LONGEST_NAME], _PLAIN) for name in ignored)
    return response
