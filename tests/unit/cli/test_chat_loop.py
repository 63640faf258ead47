"""The terminal chat with a model that the test scripts."""

import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from cli.chat_loop import HELP, AnswerFailure, ChatLoop
from cli.conversation import Conversation, Turn


@dataclass
class ScriptedModel:
    """Answers with the pieces; an exception among them is raised at its place."""

    pieces: Sequence[str | BaseException]
    asked: list[list[Turn]] = field(default_factory=list)
    streamed: list[bool] = field(default_factory=list)
    num_closed: int = 0

    def answer(self, turns: Sequence[Turn], *, stream: bool) -> Generator[str]:
        self.asked.append(list(turns))
        self.streamed.append(stream)
        try:
            for piece in self.pieces:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.num_closed += 1


def chat(model: ScriptedModel, *lines: str | BaseException, system: str | None = None, hints: bool = True) -> ChatLoop:
    """Run a chat over these lines; the screen is in the loop's console."""
    typed = iter([*lines, EOFError()])

    def read() -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    loop = ChatLoop(model, read, Console(file=io.StringIO(), width=200), Conversation(system), hints=hints)
    loop.run()
    return loop


def screen(loop: ChatLoop) -> str:
    assert isinstance(loop.console.file, io.StringIO)
    return loop.console.file.getvalue()


def test_an_answer_is_shown_and_remembered() -> None:
    model = ScriptedModel(["Hel", "lo [bold]"])

    loop = chat(model, "hi\nthere", "again", system="be brief")

    assert "Hello [bold]\n" in screen(loop)
    assert model.asked[1] == [
        Turn("system", "be brief"),
        Turn("user", "hi\nthere"),
        Turn("assistant", "Hello [bold]"),
        Turn("user", "again"),
    ]


def test_a_stopped_answer_closes_its_source_and_stays_as_far_as_it_came() -> None:
    model = ScriptedModel(["half", KeyboardInterrupt()])

    loop = chat(model, "question")

    assert model.num_closed == 1
    assert loop.conversation.turns == [Turn("user", "question"), Turn("assistant", "half")]
    assert "stopped; the part above stays" in screen(loop)


def test_a_question_stopped_before_any_answer_is_taken_back() -> None:
    loop = chat(ScriptedModel([KeyboardInterrupt()]), "question")

    assert loop.conversation.turns == []
    assert "the question is taken back" in screen(loop)


def test_a_failure_is_one_line_and_the_question_is_taken_back() -> None:
    loop = chat(ScriptedModel([AnswerFailure("HTTP 503: not ready")]), "question")

    assert screen(loop) == "HTTP 503: not ready\n"
    assert loop.conversation.turns == []
    assert loop.num_failures == 1


def test_stream_switches_between_pieces_and_whole_answers() -> None:
    model = ScriptedModel(["a"])

    chat(model, "one", "/stream", "two", "/stream", "three")

    assert model.streamed == [True, False, True]


def test_clear_forgets_the_rounds_and_keeps_the_system_text() -> None:
    model = ScriptedModel(["a"])

    chat(model, "one", "/clear", "two", system="s")

    assert model.asked[1] == [Turn("system", "s"), Turn("user", "two")]


def test_system_sets_and_shows_the_system_text() -> None:
    model = ScriptedModel(["a"])

    loop = chat(model, "/system", "/system speak  Chinese", "/system", "hi")

    assert model.asked[0][0] == Turn("system", "speak  Chinese")
    assert screen(loop).count("system text: speak  Chinese") == 2
    assert "system text: (none)" in screen(loop)


def test_exit_leaves_before_later_lines() -> None:
    model = ScriptedModel(["a"])

    chat(model, "/exit", "not asked")

    assert model.asked == []


def test_ctrl_c_at_the_prompt_does_not_leave() -> None:
    model = ScriptedModel(["a"])

    loop = chat(model, KeyboardInterrupt(), "asked")

    assert len(model.asked) == 1
    assert "Ctrl-D" in screen(loop)


def test_blank_lines_are_not_asked_and_help_lists_every_command() -> None:
    model = ScriptedModel(["a"])

    loop = chat(model, "", "  \n ", "/help")

    assert model.asked == []
    assert screen(loop).strip() == HELP


def test_an_unknown_command_is_not_sent_to_the_model() -> None:
    model = ScriptedModel(["a"])

    loop = chat(model, "/clearr")

    assert model.asked == []
    assert "/clearr" in screen(loop)


@pytest.mark.parametrize("line", ["/stream", "/clear", "/system x", "/help"])
def test_a_script_reads_nothing_but_answers(line: str) -> None:
    assert screen(chat(ScriptedModel(["a"]), line, "q", hints=False)) == "a\n"
