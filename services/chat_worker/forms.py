"""Decides which grammar, if any, an answer must keep to, and checks the functions that it may call."""

import json
import re
from collections.abc import Mapping
from typing import Final, cast

from llguidance import LLMatcher

from meshkit.errors import MeshError, Reason
from modelkit.conversation import CALL_END, CALL_START, CallForm, Tool
from services.chat_worker.request import CallMode, FormatKind, OutputFormat, ToolUse
from services.chat_worker.schema_repair import repaired
from services.chat_worker.structured import Form, FormError, GrammarCompiler, check_length, join

_MAX_TOOLS: Final = 128
_MAX_CALLS: Final = 16  # in an answer that must call; without a bound a small model would not stop
_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")  # OpenAI's, and the dot that MCP servers put between their names
# One way to write each value: a small model cannot fill its answer with blanks, and an answer costs the fewest tokens.
_JSON_LAYOUT: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_PARAMS: Final = {
    FormatKind.JSON_OBJECT: "response_format",
    FormatKind.JSON_SCHEMA: "response_format.json_schema.schema",
}


def grammar_of(
    output: OutputFormat | None,
    tools: ToolUse,
    call_form: CallForm,
    compiler: GrammarCompiler,
    *,
    behind_thought: bool = False,
) -> str | None:
    """The source of the grammar, compiled already, or None for free text.

    call_form: how the model writes calls. behind_thought: the prompt has opened the model's thinking, which is free.
    A request that names a format and may call gets the one or the other.
    Raises MeshError INVALID_REQUEST naming the field whose form cannot be kept to, with the library's reason.
    """
    forms: list[Form] = []
    if output is not None and not tools.is_forced:
        forms.append(_output_form(output, compiler))
    if tools.is_forced or (forms and tools.offered):
        forms.append(_call_form(tools, call_form, compiler))
    if not forms:
        return None
    source = join(*forms, behind_thought=behind_thought)
    _compile(source, "tools" if tools.is_forced else "response_format", compiler)
    return source


def check_tools(use: ToolUse) -> None:
    """Raise MeshError INVALID_REQUEST if the functions or the choice among them make no sense."""
    if len(use.tools) > _MAX_TOOLS:
        raise _invalid(f"tools holds {len(use.tools)} functions; the most is {_MAX_TOOLS}", "tools")
    seen: set[str] = set()
    for number, tool in enumerate(use.tools):
        param = f"tools[{number}].function.name"
        if not _NAME.fullmatch(tool.name):
            raise _invalid(f"{param} is {tool.name!r}; it must be 1 to 64 of a-z, A-Z, 0-9, _, - and .", param)
        if tool.name in seen:
            raise _invalid(f"{param} is {tool.name!r}, as another function is called already", param)
        seen.add(tool.name)
    if use.mode is CallMode.REQUIRED and not seen:
        raise _invalid("tool_choice is required, but tools holds no function", "tool_choice")
    if use.mode is CallMode.NAMED and use.name not in seen:
        raise _invalid(f"tool_choice names {use.name!r}, which is none of the tools", "tool_choice")


def _output_form(output: OutputFormat, compiler: GrammarCompiler) -> Form:
    param = _PARAMS.get(output.kind, f"structured_outputs.{output.kind}")
    match output.kind:
        case FormatKind.JSON_OBJECT:
            form = _json_form({"type": "object"})
        case FormatKind.JSON_SCHEMA:
            form = _json_form(_read_schema(output.texts[0], param))
        case FormatKind.REGEX:
            form = cast("Form", json.loads(LLMatcher.grammar_from_regex(output.texts[0]))["grammars"][0])
        case FormatKind.CHOICE if not output.texts:
            raise _invalid(f"{param} is empty; at least one text is needed", param)
        case FormatKind.CHOICE:
            form = _lark_form("start: " + " | ".join(map(_quote, output.texts)))
        case FormatKind.GRAMMAR:
            form = _lark_form(output.texts[0])
    _compile(join(form), param, compiler)
    return form


def _call_form(use: ToolUse, call_form: CallForm, compiler: GrammarCompiler) -> Form:
    """An answer that consists of calls whose arguments fit, each with its name first."""
    names = {use.name} if use.mode is CallMode.NAMED else {tool.name for tool in use.tools}
    chosen = [(number, tool) for number, tool in enumerate(use.tools) if tool.name in names]
    for number, tool in chosen:
        _compile(join(_json_form(tool.parameters)), f"tools[{number}].function.parameters", compiler)
    several = use.parallel and use.mode is not CallMode.NAMED and call_form is CallForm.TAGGED
    return _lark_form(_calls([tool for _, tool in chosen], call_form, _MAX_CALLS if several else 1))


def _calls(tools: list[Tool], form: CallForm, max_calls: int) -> str:
    """The Lark grammar of up to max_calls calls."""
    key = "arguments" if form is CallForm.TAGGED else "parameters"  # as Hermes and Llama 3 have it
    before, after = (f"{CALL_START}\n", f"\n{CALL_END}") if form is CallForm.TAGGED else ("", "")
    any_call = " | ".join(f"call{number}" for number in range(len(tools)))
    more = f' ("\\n" call){{0,{max_calls - 1}}}' if max_calls > 1 else ""
    rules = [f"start: call{more}", f"call: {any_call}"]
    for number, tool in enumerate(tools):
        head = _quote(f'{before}{{"name": "{tool.name}", "{key}": ')
        rules.append(f"call{number}: {head} arguments{number} {_quote('}' + after)}")
        rules.append(f"arguments{number}: %json {json.dumps(_with_layout(tool.parameters))}")
    return "\n".join(rules)


def _compile(source: str, param: str, compiler: GrammarCompiler) -> None:
    try:
        compiler.compile(source)
    except FormError as error:
        raise _invalid(f"{param} cannot be kept to: {error}", param) from error


def _read_schema(text: str, param: str) -> Mapping[str, object]:
    try:
        check_length(text)
        schema: object = json.loads(text)
    except FormError as error:
        raise _invalid(f"{param} {error}", param) from error
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{param} is no JSON: {error}", param) from error
    if not isinstance(schema, dict):
        raise _invalid(f"{param} is {type(schema).__name__}; it must be a JSON object", param)
    return cast("dict[str, object]", schema)


def _json_form(schema: Mapping[str, object]) -> Form:
    return {"json_schema": _with_layout(schema)}


def _with_layout(schema: Mapping[str, object]) -> dict[str, object]:
    return {**repaired(schema), "x-guidance": _JSON_LAYOUT}


def _lark_form(grammar: str) -> Form:
    return {"lark_grammar": grammar}


def _quote(text: str) -> str:
    """The text as a terminal of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")  # DEL, which the library does not take


def _invalid(message: str, param: str) -> MeshError:
    return MeshError(Reason.INVALID_REQUEST, message, param=param)
