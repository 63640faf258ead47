"""Puts the pieces of an answer together for clients that do not stream."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from zhinao.chat.v1.chat_pb2 import GenerateResponse


async def collect(pieces: AsyncGenerator[GenerateResponse, None]) -> GenerateResponse:
    """The whole answer as one last piece: all text, tokens and log-probabilities, with its end, usage and timings."""
    texts: list[str] = []
    whole = GenerateResponse()
    async with aclosing(pieces):
        async for piece in pieces:
            texts.append(piece.text)
            whole.MergeFrom(piece)  # repeated fields grow, the others keep the last value that was set
    whole.text = "".join(texts)
    return whole
