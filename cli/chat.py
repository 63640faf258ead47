"""`zhinao chat`: joins the chat loop with the keyboard, or a pipe, and the official OpenAI client."""

import sys
from collections.abc import Generator, Sequence

import openai
import typer
from openai.types.chat import ChatCompletionMessageParam
from prompt_toolkit import PromptSession
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console

from cli.chat_loop import AnswerFailure, ChatLoop
from cli.client import one_line, open_client, told_failures
from cli.conversation import Conversation, Turn
from mesh.failure import MeshFailure


def chat(url: str, model: str | None, system: str | None) -> None:
    """Chat until the person leaves; exit code 1 if a script's line failed. Raises MeshFailure if nothing answers."""
    client = open_client(url)
    served = OpenAIModel(client, model or first_chat_model(client, url))
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


def first_chat_model(client: openai.OpenAI, url: str) -> str:
    """Id of the first model that can chat; other servers do not tell kinds, and then it is the first of all.

    Raises MeshFailure if the server cannot be asked or serves none.
    """
    try:
        with told_failures(url):
            served = [model.id for model in client.models.list() if getattr(model, "kind", "chat") == "chat"]
    except AttributeError as error:  # how the client takes a page that is no JSON
        raise MeshFailure(f"{url} answers, but not as an OpenAI-compatible server does") from error
    if not served:
        raise MeshFailure(f"{url} serves no chat model")
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
