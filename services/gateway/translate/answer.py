"""Puts the pieces of answers together for clients that do not stream."""

from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing

from zhinao.chat.v1.chat_pb2 import GenerateResponse


async def collect(pieces: AsyncGenerator[GenerateResponse, None]) -> list[GenerateResponse]:
    """The whole answers in order of their index, each as one last piece that holds all there is to it."""
    texts: defaultdict[int, list[str]] = defaultdict(list)
    thoughts: defaultdict[int, list[str]] = defaultdict(list)
    answers: defaultdict[int, GenerateResponse] = defaultdict(GenerateResponse)
    async with aclosing(pieces):
        async for piece in pieces:
            texts[piece.index].append(piece.text)
            thoughts[piece.index].append(piece.reasoning)
            answers[piece.index].MergeFrom(piece)  # repeated fields grow, the others keep the last value that was set
    for index, answer in answers.items():
        answer.text, answer.reasoning = "".join(texts[index]), "".join(thoughts[index])
    return [answers[index] for index in sorted(answers)]
