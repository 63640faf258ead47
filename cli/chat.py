"""`zhinao chat`: joins the chat loop with the keyboard, or a pipe, and the official OpenAI client."""

import sys
from collections.abc import Generator, Sequence
from typing import cast

import openai
import typer
from openai.types.chat import ChatCompletionMessageParam
from prompt_toolkit import PromptSession
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console

from cli.chat_loop import AnswerFailure, ChatLoop
from cli.conversation import Conversation, Turn
from mesh.failure import MeshFailure


def chat(url: str, model: str | None, system: str | None) -> None:
    """Chat until the person leaves; exit code 1 if a script's line failed. Raises MeshFailure if nothing answers."""
    client = openai.OpenAI(base_url=url.rstrip("/") + "/v1", api_key="none", max_retries=0)
    served = OpenAIModel(client, model or first_model(client, url))
    interactive = sys.stdin.isatty()
    if interactive:
        typer.echo(f"{served.name} at {url}; /help lists the commands")
    loop = ChatLoop(
        model=served,
        read=prompt_session().prompt if interactive else pipe,
        console=Console(),
        conversation=Conversation(system),
        hints=interactive,
    )
    loop.run()
    if loop.num_failures and not interactive:
        raise typer.Exit(1)


class OpenAIModel:
    """A chat model behind the OpenAI API."""

    def __init__(self, client: openai.OpenAI, name: str) -> None:
        self._client = client
        self.name = name

    def answer(self, turns: Sequence[Turn], *, stream: bool) -> Generator[str]:
        """Yield the answer in pieces, or as one piece. Raises AnswerFailure with the server's own words."""
        messages = [_message(turn) for turn in turns]
        try:
            if not stream:
                whole = self._client.chat.completions.create(model=self.name, messages=messages)
                yield whole.choices[0].message.content or ""
                return
            with self._client.chat.completions.create(model=self.name, messages=messages, stream=True) as chunks:
                for chunk in chunks:
                    if chunk.choices and chunk.choices[0].delta.content:
                        yield chunk.choices[0].delta.content
        except openai.APIError as error:
            raise AnswerFailure(one_line(error)) from error


def one_line(error: openai.APIError) -> str:
    """The server's message, without the rest of the error's body."""
    body = error.body
    message = cast(dict[str, object], body).get("message") if isinstance(body, dict) else None
    code = f"HTTP {error.status_code}: " if isinstance(error, openai.APIStatusError) else ""
    return " ".join(f"{code}{message or error.message}".split())


def first_model(client: openai.OpenAI, url: str) -> str:
    """Id of the first model served. Raises MeshFailure if the server cannot be asked or serves none."""
    try:
        served = [model.id for model in client.models.list()]
    except openai.APIError as error:
        raise MeshFailure(f"{url} does not answer ({one_line(error)}); is the mesh up? zhinao up starts it") from error
    except AttributeError as error:  # how the client takes a page that is no JSON
        raise MeshFailure(f"{url} answers, but not as an OpenAI-compatible server does") from error
    if not served:
        raise MeshFailure(f"{url} serves no model")
    return served[0]


def prompt_session() -> PromptSession[str]:
    """Read messages of one line or many from the terminal.

    Enter sends; Alt-Enter (which terminals spell Escape, Enter) begins a new line; pasted lines stay lines.
    """
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession("> ", multiline=True, prompt_continuation="  ", key_bindings=keys)


def pipe() -> str:
    """Read one line of standard input, of whatever bytes; each is a message of its own. Raises EOFError at the end."""
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode(errors="replace")


def _message(turn: Turn) -> ChatCompletionMessageParam:
    match turn.role:
        case "system":
            return {"role": "system", "content": turn.content}
        case "user":
            return {"role": "user", "content": turn.content}
        case "assistant":
            return {"role": "assistant", "content": turn.content}
