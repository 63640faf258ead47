"""Turns a request into token ids, sampling and stop conditions, or says what is wrong with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from meshkit.errors import MeshError, Reason
from meshkit.wire import MOST_ANSWERS
from modelkit.chat_template import ChatTemplate, TemplateError
from modelkit.conversation import CALL_END, THOUGHT_START, CallForm, Message, drop_oldest_rounds
from modelkit.tokenizer import Tokenizer
from services.chat_worker.defaults import GenerationDefaults
from services.chat_worker.engine.sequence import Priority, Sampling, Stop
from services.chat_worker.forms import check_tools, grammar_of
from services.chat_worker.parameters import read_sampling, read_stop
from services.chat_worker.request import CallMode, ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt, ToolUse
from services.chat_worker.structured import GrammarCompiler, TokenGrammar
from services.chat_worker.thoughts import Part
from workerkit.checks import check_model

_ANSWER_SHARE = 4  # what part of the window a prompt that is to be truncated leaves to an answer of any length
_MOST_TAG_TOKENS = 16  # of a tag that is spelled in single bytes, and blanks behind it


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that the engine can run. generated_token_ids: how its answer begins, which the caller has already.

    start_grammar: begins one answer in the form that was asked for. tool_names: the functions that the model knows of;
    several_calls: whether one answer may call more than one. begins_with: what an answer begins with.
    unused_values: see PromptBuilder.unused_values.
    """

    token_ids: list[int]
    sampling: Sampling
    stop: Stop
    start_grammar: Callable[[], TokenGrammar] | None = None
    tool_names: frozenset[str] = frozenset()
    several_calls: bool = True
    begins_with: Part = Part.TEXT
    n: int = 1
    priority: Priority = Priority.INTERACTIVE
    tenant: str = ""
    timeout_s: float | None = None
    speculate: bool = True
    generated_token_ids: tuple[int, ...] = ()
    unused_values: tuple[str, ...] = ()


class PromptBuilder:
    """Knows one model's tokenizer, template, window and defaults; holds no request, so threads may share it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        defaults: GenerationDefaults,
        *,
        model_id: str,
        max_model_len: int,
        speculate: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._defaults = defaults
        self._model_id = model_id
        self.max_model_len = max_model_len
        self._speculate = speculate
        self._compiler = GrammarCompiler(tokenizer, defaults.end_token_ids)

    def prepare(self, request: GenerationRequest, *, fallback_seed: int) -> Prepared:
        """Check a request and tokenise it; fallback_seed is used when it brings none. Raises MeshError."""
        check_model(request.model, self._model_id)
        tools = request.prompt.tools if isinstance(request.prompt, ChatPrompt) else ToolUse()
        check_tools(tools)
        stop, sampling = self._parameters(request, tools, fallback_seed)
        token_ids = self._prompt_ids(request)
        param = "messages" if isinstance(request.prompt, ChatPrompt) else "prompt"
        max_tokens = _max_tokens(request, len(token_ids), self.max_model_len, param)
        if not 1 <= request.n <= MOST_ANSWERS:
            raise _invalid(f"n is {request.n}; it must be between 1 and {MOST_ANSWERS}", "n")
        call_form = CallForm.TAGGED if self._template is None else self._template.call_form
        begins_with = self._beginning(token_ids) if isinstance(request.prompt, ChatPrompt) else Part.TEXT
        thinks = begins_with is Part.THOUGHT
        grammar = grammar_of(request.format, tools, call_form, self._compiler, behind_thought=thinks)
        return Prepared(
            token_ids,
            sampling,
            replace(stop, max_tokens=max_tokens),
            start_grammar=None if grammar is None else partial(self._compiler.start, grammar),
            tool_names=frozenset(tool.name for tool in tools.offered),
            several_calls=tools.parallel,
            begins_with=begins_with,
            n=request.n,
            priority=request.priority,
            tenant=request.tenant,
            timeout_s=_timeout_s(request),
            speculate=self._speculate if request.speculate is None else request.speculate,
            generated_token_ids=self._generated(request, max_tokens),
            unused_values=self.unused_values(request.prompt),
        )

    def unused_values(self, prompt: ChatPrompt | TextPrompt | TokenPrompt) -> tuple[str, ...]:
        """Names of values that the template does not ask for: they had no effect."""
        if self._template is None or not isinstance(prompt, ChatPrompt):
            return ()
        return tuple(name for name in prompt.values if name not in self._template.value_names)

    def _beginning(self, token_ids: list[int]) -> Part:
        """What the model writes first: a template may have opened its thinking."""
        end = self._tokenizer.decode(token_ids[-_MOST_TAG_TOKENS:]).rstrip()
        return Part.THOUGHT if end.endswith(THOUGHT_START) else Part.START

    def _generated(self, request: GenerationRequest, max_tokens: int) -> tuple[int, ...]:
        ids, param = request.generated_token_ids, "generated_token_ids"
        if ids and request.n != 1:
            raise _invalid(f"{param} go with n = 1 only, n is {request.n}", param)
        if len(ids) >= max_tokens:
            raise _invalid(f"{param} holds {len(ids)} tokens; the answer may have {max_tokens}", param)
        self.token_ids(TokenPrompt(ids), param=param)
        return ids

    def _parameters(self, request: GenerationRequest, tools: ToolUse, fallback_seed: int) -> tuple[Stop, Sampling]:
        """An answer that may call, but once only, stops behind its first call."""
        vocab_size = self._tokenizer.vocab_size
        stop = read_stop(request, self._defaults, self._tokenizer.control_ids, vocab_size=vocab_size)
        sampling = read_sampling(request, self._defaults, stop, vocab_size=vocab_size, fallback_seed=fallback_seed)
        if tools.offered and not tools.parallel and tools.mode is CallMode.AUTO:
            stop = replace(stop, texts=(*stop.texts, CALL_END))
        return stop, sampling

    def token_ids(
        self, prompt: ChatPrompt | TextPrompt | TokenPrompt, model: str = "", *, param: str = "prompt"
    ) -> list[int]:
        """The ids of a prompt, however long it is. param: the field that holds ids. Raises MeshError."""
        check_model(model, self._model_id)
        match prompt:
            case ChatPrompt():
                check_tools(prompt.tools)
                return self._chat_ids(prompt)
            case TextPrompt(text, with_prefix):
                prefix_ids = self._tokenizer.prefix_ids if with_prefix else ()
                return [*prefix_ids, *self._tokenizer.encode(text)]
            case TokenPrompt(ids):
                for token_id in ids:
                    if token_id >= self._tokenizer.vocab_size:
                        size = self._tokenizer.vocab_size
                        raise _invalid(f"token id {token_id} is outside the vocabulary of {size} ids", param)
                return list(ids)

    def _prompt_ids(self, request: GenerationRequest) -> list[int]:
        prompt = request.prompt
        if request.truncate_prompt and isinstance(prompt, ChatPrompt):
            room = self.max_model_len - (request.max_tokens or self.max_model_len // _ANSWER_SHARE)
            return self._chat_ids(prompt, room=room)
        return self.token_ids(prompt)

    def _chat_ids(self, prompt: ChatPrompt, room: int | None = None) -> list[int]:
        """room: the tokens that the conversation may take; its oldest rounds are dropped until it fits."""
        if self._template is None:
            raise MeshError(
                Reason.NOT_SUPPORTED,
                f"model {self._model_id!r} has no chat template; send its prompt to /v1/completions",
                param="messages",
            )
        template, messages = self._template, prompt.messages
        if not messages:
            raise _invalid("messages is empty; at least one message is needed", "messages")

        def encode(turns: Sequence[Message]) -> list[int]:
            return template.encode(turns, prompt.tools.offered, prompt.values)

        try:
            return encode(messages if room is None else drop_oldest_rounds(messages, room, encode))
        except TemplateError as error:
            raise _invalid(f"the model's chat template refuses these messages: {error}", "messages") from error


def _max_tokens(request: GenerationRequest, prompt_len: int, window: int, param: str) -> int:
    if prompt_len == 0:
        raise _invalid(f"{param} holds no tokens; at least one is needed", param)
    if prompt_len >= window:
        raise MeshError(
            Reason.PROMPT_TOO_LONG,
            f"the prompt is {prompt_len} tokens and the answer needs at least 1; the model's window is {window}",
            param=param,
        )
    if request.max_tokens is None:
        return window - prompt_len
    if request.max_tokens < 1:
        raise _invalid(f"max_tokens is {request.max_tokens}; it must be at least 1", "max_tokens")
    if prompt_len + request.max_tokens > window:
        raise MeshError(
            Reason.PROMPT_TOO_LONG,
            f"the prompt is {prompt_len} tokens and max_tokens is {request.max_tokens}, "
            f"together {prompt_len + request.max_tokens}; the model's window is {window}",
            param="max_tokens",
        )
    return request.max_tokens


def _timeout_s(request: GenerationRequest) -> float | None:
    if request.timeout_s is not None and not request.timeout_s > 0:  # NaN is not either
        raise _invalid(f"timeout_s is {request.timeout_s}; it must be above 0", "timeout_s")
    return request.timeout_s


def _invalid(message: str, param: str) -> MeshError:
    return MeshError(Reason.INVALID_REQUEST, message, param=param)
