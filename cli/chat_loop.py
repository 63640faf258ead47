"""The terminal chat itself: reads lines, obeys commands, shows answers; knows no keyboard and no HTTP."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Protocol

from rich.console import Console
from rich.text import Text

from cli.conversation import Conversation, Turn

HELP: Final = """\
/clear         forget the conversation
/stream        show answers piece by piece, or whole
/system TEXT   set the system text; without TEXT, show it
/help          this list
/exit          leave (also Ctrl-D)
Enter sends; Alt-Enter, or Esc then Enter, begins a new line. Ctrl-C stops an answer."""


class AnswerFailure(Exception):
    """The model could not answer; the message is one line."""


class ChatModel(Protocol):
    """Who answers. Closing the generator stops the answer at its source; AnswerFailure may come at any piece."""

    def answer(self, turns: Sequence[Turn], *, stream: bool) -> Generator[str]:
        """Yield the answer in pieces, or as one piece without stream."""
        ...


@dataclass(slots=True)
class ChatLoop:
    """One chat. read returns what was typed, or raises EOFError (leave) or KeyboardInterrupt (never mind).

    hints: tell people about keys and modes; False for scripts, which read nothing but answers.
    """

    model: ChatModel
    read: Callable[[], str]
    console: Console
    conversation: Conversation
    hints: bool = True
    stream: bool = True
    num_failures: int = 0

    def run(self) -> None:
        """Chat until /exit or the end of the input."""
        while True:
            try:
                line = self.read().strip()
            except KeyboardInterrupt:
                self._hint("Ctrl-D or /exit leaves")
                continue
            except EOFError:
                return
            if line == "/exit":
                return
            if line.startswith("/"):
                self._obey(line)
            elif line:
                self._ask(line)

    def _obey(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        match command:
            case "/clear":
                self.conversation.clear()
                self._hint("the conversation is forgotten")
            case "/stream":
                self.stream = not self.stream
                self._hint(f"answers come {'piece by piece' if self.stream else 'whole'}")
            case "/system":
                self.conversation.system = argument.strip() or self.conversation.system
                self._hint(f"system text: {self.conversation.system or '(none)'}")
            case "/help":
                self._hint(HELP)
            case _:
                self.num_failures += 1
                self._complain(f"unknown command {command}; /help lists them")

    def _ask(self, question: str) -> None:
        """Show an answer. One that was stopped stays as far as it came; a question without any answer is taken back."""
        shown: list[str] = []
        try:
            with closing(self.model.answer(self.conversation.prompt(question), stream=self.stream)) as pieces:
                for piece in pieces:
                    shown.append(piece)
                    self.console.print(Text(piece), end="", soft_wrap=True)
        except KeyboardInterrupt:
            self.console.print()
            self._hint("(stopped; the part above stays)" if shown else "(stopped; the question is taken back)")
        except AnswerFailure as failure:
            self.num_failures += 1
            if shown:
                self.console.print()
            self._complain(str(failure))
        else:
            self.console.print()
        answer = "".join(shown)
        if answer:
            self.conversation.add_round(question, answer)

    def _hint(self, text: str) -> None:
        if self.hints:
            self.console.print(Text(text, style="dim"), soft_wrap=True)

    def _complain(self, text: str) -> None:
        self.console.print(Text(text, style="red"), soft_wrap=True)
