"""Decides what a soak asks for, one request after another, from a seed; knows no mesh and no clock."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from bench.prompts import Prompts
from bench.schemas import Case, cases

Body = dict[str, Any]
CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"
WINDOW: Final = 4096  # tokens
STOPS: Final = ("the", "engine", "\n\n")
SHARE_LEAVING: Final = 0.15
_LONGEST_PROMPT, _NUM_PREFIXES, _PREFIX_LEN = 3000, 6, 800  # tokens
_LONGEST_STAY_S = 4.0
_BOUNDED: Final = tuple(case for case in cases() if case.bounded)
_SCHEMA_TOKENS = 768  # no answer to a bounded schema is longer


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. leave_s: its client goes away after that many seconds. status: what HTTP must answer.

    schema: what every answer must be an example of.
    """

    kind: str
    path: str
    body: Body
    leave_s: float | None = None
    status: int = 200
    schema: Case | None = None


class Plan:
    """An endless list of requests; the same seed gives the same ones."""

    def __init__(self, seed: int, model: str) -> None:
        self._random = random.Random(seed)  # noqa: S311  (a plan, not secrets)
        self._prompts = Prompts(seed)
        self._prefixes = self._prompts.take_many(_NUM_PREFIXES, _PREFIX_LEN)
        self._model = model
        self._kinds: dict[str, tuple[float, Callable[[str], Ask]]] = {
            "short chat": (25, self._chat),
            "short text": (15, self._text),
            "long prompt": (8, self._long),
            "shared prefix": (15, self._shared),
            "n = 3": (8, self._three),
            "json_schema": (8, self._schema),
            "logprobs": (8, self._logprobs),
            "stop texts": (5, self._stops),
            "bulk": (5, self._bulk),
            "invalid": (3, self._invalid),
        }

    def __iter__(self) -> Iterator[Ask]:
        names = list(self._kinds)
        weights = [weight for weight, _ in self._kinds.values()]
        while True:
            (kind,) = self._random.choices(names, weights)
            yield self._kinds[kind][1](kind)

    def _ask(self, kind: str, path: str, body: Body, *, max_tokens: int, schema: Case | None = None) -> Ask:
        """Complete a body: sampled or greedy, streamed or whole, with a client that stays or leaves."""
        draw = self._random
        sampling = {"temperature": 0} if draw.random() < 0.5 else {"temperature": 0.8, "top_p": 0.95}
        streaming = {"stream": True, "stream_options": {"include_usage": True}} if draw.random() < 0.6 else {}
        whole = {"model": self._model, "max_tokens": max_tokens, "seed": draw.getrandbits(32)} | sampling | streaming
        leave_s = draw.uniform(0, _LONGEST_STAY_S) if draw.random() < SHARE_LEAVING else None
        return Ask(kind, path, whole | body, leave_s, schema=schema)

    def _message(self, text: str) -> Body:
        return {"messages": [{"role": "user", "content": text}]}

    def _chat(self, kind: str) -> Ask:
        text = f"Tell me something about the number {self._random.randrange(10**6)}."
        return self._ask(kind, CHAT, self._message(text), max_tokens=self._random.randint(8, 160))

    def _text(self, kind: str) -> Ask:
        prompt = self._prompts.take(self._random.randint(1, 200))
        return self._ask(kind, TEXT, {"prompt": prompt}, max_tokens=self._random.randint(1, 96))

    def _long(self, kind: str) -> Ask:
        prompt = self._prompts.take(self._random.randint(1000, _LONGEST_PROMPT))
        return self._ask(kind, TEXT, {"prompt": prompt}, max_tokens=self._random.randint(1, 48))

    def _shared(self, kind: str) -> Ask:
        prompt = self._random.choice(self._prefixes) + self._prompts.take(self._random.randint(1, 60))
        return self._ask(kind, TEXT, {"prompt": prompt}, max_tokens=self._random.randint(4, 64))

    def _three(self, kind: str) -> Ask:
        body = {"prompt": self._prompts.take(self._random.randint(20, 300)), "n": 3}
        return self._ask(kind, TEXT, body, max_tokens=self._random.randint(4, 64))

    def _schema(self, kind: str) -> Ask:
        case = self._random.choice(_BOUNDED)
        form = {"type": "json_schema", "json_schema": {"name": "example", "schema": case.schema}}
        body = self._message("Give a short example.") | {"response_format": form}
        return self._ask(kind, CHAT, body, max_tokens=_SCHEMA_TOKENS, schema=case)

    def _logprobs(self, kind: str) -> Ask:
        if self._random.random() < 0.5:
            body = self._message("Name a colour.") | {"logprobs": True, "top_logprobs": self._random.randint(0, 20)}
            return self._ask(kind, CHAT, body, max_tokens=32)
        body = {"prompt": self._prompts.take(40), "logprobs": self._random.randint(0, 5)}
        return self._ask(kind, TEXT, body, max_tokens=32)

    def _stops(self, kind: str) -> Ask:
        body = {"prompt": self._prompts.take(self._random.randint(4, 100)), "stop": list(STOPS)}
        return self._ask(kind, TEXT, body, max_tokens=96)

    def _bulk(self, kind: str) -> Ask:
        body = {"prompt": self._prompts.take(self._random.randint(20, 600)), "priority": "bulk"}
        return self._ask(kind, TEXT, body, max_tokens=self._random.randint(16, 96))

    def _invalid(self, kind: str) -> Ask:
        wrong = self._random.choice(
            [
                {"temperature": 3},
                {"max_tokens": 0},
                {"top_p": 0},
                {"n": 200},
                {"stop": ["x"] * 17},
                {"prompt": self._prompts.take(WINDOW + 1)},
                {"structured_outputs": {"regex": "("}},
                {"priority": "soon"},
            ]
        )
        body = {"model": self._model, "prompt": "x", "max_tokens": 4} | wrong
        return Ask(kind, TEXT, body, status=400)
