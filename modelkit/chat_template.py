"""Turns a conversation into the token ids a chat model was trained on; text can never become a control token."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn, Protocol, cast

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from modelkit.conversation import CALL_START, CallForm, Message, Tool, spell_tools
from modelkit.tokenizer import Tokenizer
from modelkit.tokenizer_config import TokenizerConfig
from modelkit.tokenizer_zhinao import ZhinaoTokenizer

NO_VALUES: Final[Mapping[str, object]] = MappingProxyType({})
_OURS: Final = frozenset({"messages", "tools", "documents", "add_generation_prompt"})  # not for callers to set
_ZHINAO_SYSTEM: Final = "You are a helpful assistant."


class TemplateError(ValueError):
    """A chat template is broken, or it refuses these messages; the message carries the template's own words."""


class ChatTemplate(Protocol):
    """Spells a conversation as ids, up to where the assistant begins to speak."""

    @property
    def call_form(self) -> CallForm:
        """How a model that reads this template writes the call of a function."""
        ...

    @property
    def value_names(self) -> Collection[str]:
        """What a caller may set beside messages and tools, e.g. enable_thinking."""
        ...

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), values: Mapping[str, object] = NO_VALUES
    ) -> list[int]:
        """The ids of functions, turns and the generation prompt. Raises TemplateError when the template refuses.

        values: JSON values by name; those that the template does not ask for have no effect.
        """
        ...


def load_chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of a checkpoint folder, or None for a base model without one.

    Zhinao's format is fixed; others bring a Jinja template. Raises TemplateError when that is broken.
    """
    if isinstance(tokenizer, ZhinaoTokenizer):
        return ZhinaoChatTemplate(tokenizer)
    try:
        config = TokenizerConfig.read(folder)
        if config.chat_template is None:
            return None
        return JinjaChatTemplate(config.chat_template, tokenizer, config.named_tokens)
    except ValueError as error:
        raise TemplateError(f"{folder}: {error}") from error


class ZhinaoChatTemplate:
    """360Zhinao's ChatML, with role, newline and content encoded each on its own. Source: make_context of its
    generation_utils.py.

    A conversation that does not start with a system turn gets the default one; an empty system turn stays empty.
    The format has no words for functions, so they are spelled as Hermes does.
    """

    call_form = CallForm.TAGGED
    value_names: Collection[str] = ()

    def __init__(self, tokenizer: ZhinaoTokenizer) -> None:
        self._tokenizer = tokenizer
        self._start = tokenizer.control_ids["<|im_start|>"]
        self._end = tokenizer.control_ids["<|im_end|>"]
        self._newline = tokenizer.encode("\n")

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        values: Mapping[str, object] = NO_VALUES,  # noqa: ARG002 - the format asks for none
    ) -> list[int]:
        """The ids of all turns and the generation prompt; see ChatTemplate.encode."""
        has_system = messages and messages[0].role == "system"
        turns = messages if has_system else [Message("system", _ZHINAO_SYSTEM), *messages]
        ids: list[int] = []
        for turn in spell_tools(turns, tools):
            ids += [*self._head(turn.role), *self._tokenizer.encode(turn.content), self._end, *self._newline]
        return ids + self._head("assistant")

    def _head(self, role: str) -> list[int]:
        return [self._start, *self._tokenizer.encode(role), *self._newline]


class JinjaChatTemplate:
    """A Hugging Face chat template that cannot be talked into control tokens.

    A control string inside what a client sent is hidden while the template runs: its first character is swapped for one
    that occurs nowhere. The rendered text is then cut at the control strings left, which are the template's own, and
    what lies between is encoded as plain text. On ordinary text the ids are those of transformers'
    `apply_chat_template(add_generation_prompt=True)`. A template that ignores functions gets them spelled in the turns.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, named_tokens: Mapping[str, str]) -> None:
        """named_tokens: what the template may call `bos_token` and so on. Raises TemplateError on bad syntax."""
        environment = _environment()
        try:
            self._template = environment.from_string(source, globals=dict(_FUNCTIONS))
            names = meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError as error:
            raise TemplateError(f"chat template: {error}") from error
        self._knows_tools = "tools" in names
        self.value_names: Collection[str] = names - _OURS - _FUNCTIONS.keys() - named_tokens.keys()
        bare = self._knows_tools and CALL_START not in source
        self.call_form = CallForm.BARE if bare else CallForm.TAGGED
        self._tokenizer = tokenizer
        self._named_tokens = dict(named_tokens)
        self._source_characters = frozenset(source)
        controls = tokenizer.control_ids.keys()
        self._first_characters = sorted({control[0] for control in controls})
        self._cut = re.compile(f"({_any_of(controls)})")
        self._hidden = _control_start(controls)

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), values: Mapping[str, object] = NO_VALUES
    ) -> list[int]:
        """The ids of all turns and the generation prompt; see ChatTemplate.encode."""
        if not self._knows_tools:
            messages, tools = spell_tools(messages, tools), ()
        sent: dict[str, object] = {
            "messages": [_to_turn(message) for message in messages],
            "tools": [tool.signature for tool in tools] or None,
            **{name: value for name, value in values.items() if name in self.value_names},
        }
        mask = self._choose_mask(sent)
        unmask = {ord(stand_in): first for first, stand_in in mask.items()}
        ids: list[int] = []
        for number, segment in enumerate(self._cut.split(self._render(sent, mask))):
            if number % 2:
                ids.append(self._tokenizer.control_ids[segment])
            else:
                ids += self._tokenizer.encode(segment.translate(unmask))
        return ids

    def _choose_mask(self, values: object) -> dict[str, str]:
        """For each character that begins a control string, one that occurs in no value and not in the template."""
        try:
            used = self._source_characters.union(*_strings_in(values))
        except RecursionError as error:
            raise TemplateError("the messages or tools hold JSON that is nested too deep") from error
        unused = (chr(code) for code in range(0x10FFFF, 0xFFFF, -1) if chr(code) not in used)
        stand_ins = list(islice(unused, len(self._first_characters)))
        if len(stand_ins) < len(self._first_characters):
            raise TemplateError(
                f"the messages use {len(used)} different characters, none is left to encode them safely"
            )
        return dict(zip(self._first_characters, stand_ins, strict=True))

    def _render(self, values: Mapping[str, object], mask: Mapping[str, str]) -> str:
        def hide(text: str) -> str:
            return self._hidden.sub(lambda found: mask[found[0]], text)

        try:
            hidden = {name: _map_strings(value, hide) for name, value in values.items()}
            return self._template.render(**self._named_tokens, **hidden, documents=None, add_generation_prompt=True)
        except Exception as error:  # boundary: a template is a program and may fail in any way
            raise TemplateError(f"chat template: {error}") from error


def _to_turn(message: Message) -> dict[str, object]:
    """A turn as templates expect it, which is OpenAI's form with the arguments read."""
    turn: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _read(call.arguments)}}
            for call in message.tool_calls
        ]
    return turn | ({"tool_call_id": message.tool_call_id} if message.tool_call_id else {})


def _read(arguments: str) -> object:
    """What the JSON says; an answer that was cut short left none, and stays as it is."""
    try:
        value: object = json.loads(arguments)
        json.dumps(value, ensure_ascii=False).encode()  # JSON can also spell half a surrogate pair
    except (ValueError, RecursionError):
        return arguments
    return value


def _strings_in(value: object) -> Iterator[str]:
    """Every string inside a JSON value, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in cast("Mapping[str, object]", value).items():
            yield name
            yield from _strings_in(each)
    elif isinstance(value, list):
        for each in cast("list[object]", value):
            yield from _strings_in(each)


def _map_strings(value: object, change: Callable[[str], str]) -> object:
    """The same JSON value with every string changed, names included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): _map_strings(each, change) for name, each in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return [_map_strings(each, change) for each in cast("list[object]", value)]
    return value


def _any_of(texts: Collection[str]) -> str:
    """A pattern for any of the texts, the longest first. Beginnings are shared: Llama-3 has 256 control strings."""
    if not texts:
        return "(?!)"  # which never matches
    firsts = sorted({text[0] for text in texts if text})
    branches = [re.escape(first) + _any_of({text[1:] for text in texts if text[:1] == first}) for first in firsts]
    pattern = f"(?:{'|'.join(branches)})" if branches else ""
    return f"{pattern}?" if branches and "" in texts else pattern


def _control_start(controls: Collection[str]) -> re.Pattern[str]:
    """Matches the first character of a control string that is there whole, or begun where the text ends.

    The beginning counts because the template may go on with another text, and may trim the blanks between.
    """
    firsts = _any_of({control[0] for control in controls})
    tails = _any_of({control[1:] for control in controls})
    begun = _any_of({control[1:end] for control in controls for end in range(1, len(control))})
    return re.compile(rf"{firsts}(?=(?:{tails})|(?:{begun})\s*\Z)")


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as chat templates expect it; the same set-up as in transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    vars(environment)["filters"]["tojson"] = _to_json  # vars: jinja2 declares the attribute without a type
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}` marks what is trained on; here its body is simply part of the text."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which is not the text a model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


_FUNCTIONS: Final[Mapping[str, object]] = MappingProxyType({"raise_exception": _refuse, "strftime_now": _now})
