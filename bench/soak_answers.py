"""Judges the answer to one request of a soak; knows no mesh and no clock."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from bench.soak_plan import Ask, Body

_PREFIX = "data: "
_DONE = f"{_PREFIX}[DONE]"


class Malformed(ValueError):
    """An answer is not what was asked for; the message says how."""


@dataclass(slots=True)
class Choice:
    """One answer of a request, put together again if it was streamed. num_logprobs: tokens that have them."""

    text: str = ""
    finish_reason: str | None = None
    num_logprobs: int = 0

    def add(self, part: Body) -> None:
        """Append a choice of OpenAI's, or a part of one. Raises Malformed if it comes after the end."""
        if self.finish_reason is not None:
            raise Malformed(f"choice {part['index']} goes on after its end")
        message: Body = part.get("message") or part.get("delta") or {}
        self.text += part.get("text") or message.get("content") or ""
        self.finish_reason = part["finish_reason"]
        logprobs: Body = part.get("logprobs") or {}
        self.num_logprobs += len(logprobs.get("content") or logprobs.get("tokens") or [])


@dataclass(slots=True)
class Answer:
    """All choices by their index, and the usage."""

    choices: dict[int, Choice] = field(default_factory=dict[int, Choice])
    usage: dict[str, int] = field(default_factory=dict[str, int])


def check(ask: Ask, status: int, text: str) -> None:
    """Raises Malformed, with what is wrong, unless the answer is as it must be."""
    if status != ask.status:
        raise Malformed(f"HTTP {status} instead of {ask.status}")
    if status == 200:
        answer = _join(_events(text) if ask.body.get("stream") else [json.loads(text)])
        _check_choices(ask, answer)
        _check_usage(ask, answer)
    elif not json.loads(text)["error"]["message"]:
        raise Malformed("the error has no message")


def _events(text: str) -> list[Body]:
    lines = [line for line in text.splitlines() if line]
    if not lines or lines[-1] != _DONE:
        raise Malformed("the stream does not end with [DONE]")
    if stray := [line for line in lines if not line.startswith(_PREFIX)]:
        raise Malformed(f"the stream has a line that is no event: {stray[0][:100]}")
    return [json.loads(line.removeprefix(_PREFIX)) for line in lines[:-1]]


def _join(bodies: Iterable[Body]) -> Answer:
    answer = Answer()
    for body in bodies:
        if "error" in body:
            raise Malformed(f"error in the stream: {body['error']}")
        for part in body["choices"]:
            answer.choices.setdefault(part["index"], Choice()).add(part)
        answer.usage = body.get("usage") or answer.usage
    return answer


def _check_choices(ask: Ask, answer: Answer) -> None:
    wanted = list(range(ask.body.get("n", 1)))
    if sorted(answer.choices) != wanted:
        raise Malformed(f"choices {sorted(answer.choices)} instead of {wanted}")
    for index, choice in answer.choices.items():
        if choice.finish_reason not in ("stop", "length"):
            raise Malformed(f"choice {index} ends with {choice.finish_reason}")
        if found := [stop for stop in ask.body.get("stop", ()) if stop in choice.text]:
            raise Malformed(f"choice {index} holds the stop text {found[0]!r}")
        if ask.schema:
            _check_form(ask.schema.schema, choice)


def _check_form(schema: dict[str, Any], choice: Choice) -> None:
    if choice.finish_reason != "stop":
        raise Malformed("the answer to a bounded schema does not end")
    try:
        Draft202012Validator(schema).validate(json.loads(choice.text))
    except (ValueError, ValidationError) as error:
        raise Malformed(f"not an example of its schema: {str(error).splitlines()[0]}") from error


def _check_usage(ask: Ask, answer: Answer) -> None:
    usage, limit = answer.usage, ask.body["max_tokens"]
    if not usage or usage["total_tokens"] != usage["prompt_tokens"] + usage["completion_tokens"]:
        raise Malformed(f"the usage does not add up: {usage}")
    prompt = ask.body.get("prompt")
    if prompt is not None and usage["prompt_tokens"] != len(prompt):
        raise Malformed(f"{usage['prompt_tokens']} prompt tokens instead of {len(prompt)}")
    at_limit = sum(choice.finish_reason == "length" for choice in answer.choices.values())
    if not at_limit * limit <= usage["completion_tokens"] <= len(answer.choices) * limit:
        raise Malformed(f"{usage['completion_tokens']} completion tokens; {at_limit} choices reached the limit {limit}")
    if ask.body.get("logprobs") is not None and at_limit and answer.choices[0].num_logprobs != limit:
        raise Malformed(f"log-probabilities of {answer.choices[0].num_logprobs} tokens instead of {limit}")
