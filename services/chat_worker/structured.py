"""Turns the form that an answer must have into masks of allowed tokens; knows no request and no engine."""

import json
from collections.abc import Collection
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from torch import Tensor

from modelkit.conversation import THOUGHT_END
from modelkit.tokenizer import Tokenizer

_MAX_SOURCE_LEN: Final = 100_000  # characters of a schema or grammar
_REASON_PART: Final = 300  # characters of the library's words at each end
_MAX_CACHED: Final = 128  # compiled forms
_NUM_TRIED: Final = 8  # tokens of an answer that a new form is tried with, about a millisecond in all
# Up to the first end tag; models put one or two line breaks behind it.
_THOUGHT: Final = f'thought: words blanks\nwords[suffix="{THOUGHT_END}"]: /(?s:.*)/\nblanks: /\\n{{0,2}}/\n'
_PLAINLY: Final = MappingProxyType(  # what the library only has a code for
    {"NoExtensionBias": "no answer can be completed; it contradicts itself or has a part that must contain itself"}
)
_LIMITS: Final = LLParserLimits(verbose_errors=False)  # the library's own bounds: a mask takes 15 ms at the very most


Form = dict[str, object]  # one of llguidance's grammar objects, e.g. {"lark_grammar": 'start: "yes" | "no"'}


class FormError(ValueError):
    """A form cannot be kept to; the message carries the library's own words where they say why."""


def check_length(text: str) -> None:
    """Raise FormError if a schema or grammar is longer than what is read."""
    if len(text) > _MAX_SOURCE_LEN:
        raise FormError(f"is {len(text)} characters long; the most is {_MAX_SOURCE_LEN}")


class TokenGrammar:
    """How far one answer has come in its form. Masks are computed by the executor, while the model computes.

    One thread calls it; see engine.generation.Grammar.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, executor: Executor) -> None:
        self._matcher = matcher
        self._executor = executor
        self._bits = torch.zeros(-(-vocab_size // 32), dtype=torch.int32)
        self._pending: Future[None] | None = None

    def prepare(self) -> None:
        """Begin to compute the mask of the next token."""
        self._pending = self._executor.submit(self._fill)

    def mask(self) -> Tensor:
        """Wait for the mask: (ceil(vocab / 32),) int32, a bit for each token that may follow; valid until `accept`.

        End tokens are among them exactly when the form may end here. None is if the form became too complex to follow.
        """
        if self._pending is None:
            self.prepare()
        self._wait()
        return self._bits

    def accept(self, token_id: int) -> None:
        """Take the token that was chosen, which the mask allowed."""
        self._wait()
        self._pending = None
        self._matcher.consume_token(token_id)

    @property
    def is_finished(self) -> bool:
        """Whether the form is complete and nothing may follow."""
        self._wait()
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _fill(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._bits.data_ptr(), self._bits.nbytes)
        if self._matcher.is_error():
            self._bits.zero_()


class GrammarCompiler:
    """Compiles forms for one tokenizer and remembers the last ones; threads may share it."""

    def __init__(self, tokenizer: Tokenizer, end_token_ids: Collection[int]) -> None:
        """end_token_ids: what ends an answer. With none, any control token serves; a structured answer has to end."""
        self._vocab_size = tokenizer.vocab_size
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Vocabulary(tokenizer)),
            n_vocab=tokenizer.vocab_size,
            eos_token=sorted(end_token_ids) or sorted(tokenizer.control_ids.values())[:1],
        )
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="mask")
        self._compiled = lru_cache(maxsize=_MAX_CACHED)(self._compile)

    def compile(self, source: str) -> None:
        """Get a form ready to start. Raises FormError if it is broken, too large, or asks for what is not there."""
        self._compiled(source)

    def start(self, source: str) -> TokenGrammar:
        """Begin an answer in a form; `source` is what `join` returned. Raises FormError as `compile` does."""
        return TokenGrammar(self._compiled(source).deep_copy(), self._vocab_size, self._executor)

    def _compile(self, source: str) -> LLMatcher:
        check_length(source)
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS)
        _begin_answer(matcher.deep_copy())
        return matcher


def _begin_answer(matcher: LLMatcher) -> None:
    """Raise FormError if the form is broken, or breaks in an answer's first tokens: loops and bounds show only then."""
    places = torch.arange(32)
    for _ in range(_NUM_TRIED):
        if matcher.is_stopped():
            break
        words = torch.frombuffer(bytearray(matcher.compute_bitmask()), dtype=torch.int32)
        allowed = (words[:, None] >> places).bitwise_and(1).flatten().nonzero()
        if not matcher.is_error():
            matcher.consume_token(int(allowed[len(allowed) // 2]))
    if matcher.is_error():
        reason = matcher.get_error().removesuffix("<non-verbose/>").strip()
        raise FormError(_PLAINLY.get(reason, _shortened(reason)))


def _shortened(reason: str) -> str:
    """The library repeats a whole pattern, between what it calls the mistake and what the mistake is."""
    return reason if len(reason) <= 2 * _REASON_PART else f"{reason[:_REASON_PART]} … {reason[-_REASON_PART:]}"


def join(*forms: Form, behind_thought: bool = False) -> str:
    """The source of an answer that has any one of these forms. behind_thought: once it has closed its thinking."""
    named = [{"name": f"form{number}", **form} for number, form in enumerate(forms)]
    if len(forms) == 1 and not behind_thought:
        return json.dumps({"grammars": named})
    any_form = " | ".join(f"@form{number}" for number in range(len(forms)))
    start = f"{_THOUGHT}start: thought ({any_form})" if behind_thought else f"start: {any_form}"
    return json.dumps({"grammars": [{"lark_grammar": start}, *named]})


class _Vocabulary:
    """What the library asks of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = {token_id: name.encode() for name, token_id in tokenizer.control_ids.items()}
        self.tokens = [
            names.get(token_id) or tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)
        ]
        self.special_token_ids = sorted(names)
        self.eos_token_id = 0  # overruled by the list that LLTokenizer is given
        self.bos_token_id = None
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", errors="replace"))
