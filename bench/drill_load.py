"""Asks a mesh for everything at once, steadily, and judges every answer; does not know what is done to the mesh."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

CHAT: Final = "/v1/chat/completions"
SILENT_S: Final = 60.0  # what says nothing for so long hangs
_WHOLE, _LOST, _BROKEN, _WRONG, _HUNG = "whole", "lost", "broken", "wrong", "hung"
_MAX_TOKENS: Final = 64
_QUESTIONS: Final = ("Tell me about steam.", "What is a river?", "Why do ships float?", "Name some metals.")
_ALL_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None)

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One request that ended. Times on the monotonic clock; silence_s: the longest time without an event."""

    kind: str
    began_s: float
    ended_s: float
    outcome: str
    silence_s: float = 0.0
    words: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the answers that were under way in some time."""

    num_asked: int
    num_lost: int  # of those in one piece
    num_broken: int  # streams that ended with an error
    num_wrong: int  # whole, but not what comes when nothing happens: text, vectors, scores
    num_hung: int
    longest_silence_s: float

    @classmethod
    def of(cls, answers: Sequence[Answer], start_s: float, end_s: float) -> "Tally":
        """Of the answers that overlap a time."""
        some = [each for each in answers if each.ended_s >= start_s and each.began_s <= end_s]

        def count(outcome: str) -> int:
            return sum(each.outcome == outcome for each in some)

        return cls(
            num_asked=len(some),
            num_lost=count(_LOST),
            num_broken=count(_BROKEN),
            num_wrong=count(_WRONG),
            num_hung=count(_HUNG),
            longest_silence_s=max((each.silence_s for each in some), default=0.0),
        )


def _bodies() -> dict[str, list[tuple[str, Body]]]:
    """What is asked, by kind; each kind is a client that asks one after the other."""

    def chats(**fields: object) -> list[tuple[str, Body]]:
        messages = ([{"role": "user", "content": text}] for text in _QUESTIONS)
        return [(CHAT, {"messages": each, "max_tokens": _MAX_TOKENS, "ignore_eos": True} | fields) for each in messages]

    greedy, seeded = {"temperature": 0}, {"temperature": 1, "seed": 5}
    return {
        "greedy stream 1": chats(**greedy, stream=True),
        "greedy stream 2": chats(**greedy, stream=True)[::-1],
        "seeded stream": chats(**seeded, stream=True),
        "whole chat": chats(**greedy),
        "vectors": [("/v1/embeddings", {"input": list(_QUESTIONS)})],
        "scores": [("/v1/rerank", {"query": "metal", "documents": list(_QUESTIONS)})],
    }


@dataclass(slots=True)
class Load:
    """The clients. answers: all that ended, in that order. expected: what is answered when nothing happens."""

    url: str
    answers: list[Answer] = field(default_factory=list[Answer])
    expected: dict[str, object] = field(default_factory=dict[str, object])

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Learn what is right, then ask until told that it is over."""
        async with httpx.AsyncClient(base_url=self.url, timeout=SILENT_S, limits=_ALL_LIMITS) as client:
            bodies = _bodies()
            await self.learn(client, [each for kind in bodies.values() for each in kind])
            await asyncio.gather(*(self.keep_asking(client, kind, asked, is_over) for kind, asked in bodies.items()))

    async def learn(self, client: httpx.AsyncClient, asked: Sequence[tuple[str, Body]]) -> None:
        """Keep what is answered while nothing happens."""
        for path, body in asked:
            if _key(body) not in self.expected:
                whole = {name: value for name, value in body.items() if name != "stream"}
                answer = await client.post(path, json=whole)
                self.expected[_key(body)] = _content(answer.raise_for_status().json())

    async def keep_asking(
        self, client: httpx.AsyncClient, kind: str, asked: Sequence[tuple[str, Body]], is_over: Callable[[], bool]
    ) -> None:
        """Be one client, that asks these one after the other, and judge its answers."""
        number = 0
        while not is_over():
            path, body = asked[number % len(asked)]
            number += 1
            began_s = time.monotonic()
            read = self._stream if body.get("stream") else self._whole
            outcome, silence_s, words = await read(client, path, body)
            self.answers.append(Answer(kind, began_s, time.monotonic(), outcome, silence_s, words))
            await asyncio.sleep(0.05)

    async def _whole(self, client: httpx.AsyncClient, path: str, body: Body) -> tuple[str, float, str]:
        began_s = time.monotonic()
        try:
            answer = await client.post(path, json=body)
        except httpx.ReadTimeout:
            return _HUNG, time.monotonic() - began_s, ""
        except httpx.HTTPError as error:
            return _LOST, 0.0, repr(error)
        silence_s = time.monotonic() - began_s
        if answer.status_code != 200:
            return _LOST, silence_s, f"{answer.status_code}: {answer.text}"
        if _content(answer.json()) != self.expected[_key(body)]:
            return _WRONG, silence_s, answer.text
        return _WHOLE, silence_s, ""

    async def _stream(self, client: httpx.AsyncClient, path: str, body: Body) -> tuple[str, float, str]:
        text, last_s, silence_s, is_done = "", time.monotonic(), 0.0, False
        try:
            async with asyncio.timeout(SILENT_S) as patience, client.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    return _BROKEN, 0.0, f"{response.status_code}: {(await response.aread()).decode()}"
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):  # the gateway's own sign of life says nothing of the model
                        continue
                    patience.reschedule(asyncio.get_running_loop().time() + SILENT_S)
                    now_s = time.monotonic()
                    silence_s, last_s = max(silence_s, now_s - last_s), now_s
                    is_done = is_done or line == "data: [DONE]"
                    if line.startswith('data: {"error"'):
                        return _BROKEN, silence_s, line
                    text += _text_of(line)
        except (TimeoutError, httpx.ReadTimeout):
            return _HUNG, SILENT_S, text
        except httpx.HTTPError as error:
            return _BROKEN, silence_s, repr(error)
        if not is_done:
            return _BROKEN, silence_s, f"no end after {text!r}"
        return (_WHOLE if text == self.expected[_key(body)] else _WRONG), silence_s, text


def _content(answer: Mapping[str, Any]) -> object:
    """The text, the vectors or the scores of an answer in one piece."""
    if "choices" in answer:
        return answer["choices"][0]["message"]["content"]
    if "results" in answer:
        return [(each["index"], each["relevance_score"]) for each in answer["results"]]
    return [each["embedding"] for each in answer["data"]]


def _text_of(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""


def _key(body: Mapping[str, Any]) -> str:
    """Names a question, streamed or not."""
    return json.dumps({name: value for name, value in body.items() if name != "stream"}, sort_keys=True)
