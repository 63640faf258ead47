"""`zhinao embed` and `zhinao rerank` in front of a server that answers by script."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx2
import openai
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cli.failures import UsageFailure
from cli.main import app
from cli.search import ranking_table, read_texts

VECTORS = {"a": [1.0, 0.0], "b": [0.0, 2.0], "c": [1.0, 1.0]}
RESULTS = [
    {"index": 1, "relevance_score": 0.75, "raw_score": 1.1, "document": {"text": "It is blue."}},
    {"index": 0, "relevance_score": 0.1, "raw_score": -2.2, "document": {"text": "Grass [is] green."}},
]


class Server:
    """Embeds by a table and ranks by a list; remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        if request.url.path == "/v1/rerank":
            return httpx2.Response(200, json={"results": RESULTS, "threshold": 0.5})
        data = [
            {"object": "embedding", "index": index, "embedding": VECTORS[text[0]]}
            for index, text in enumerate(body["input"])
        ]
        return httpx2.Response(200, json={"object": "list", "data": data, "model": "m", "usage": {}})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    scripted = Server()
    monkeypatch.setattr("cli.search.open_client", lambda _url: client(scripted))
    return scripted


def client(answer: Callable[[httpx2.Request], httpx2.Response]) -> openai.OpenAI:
    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(base_url="http://mesh/v1", api_key="none", max_retries=0, http_client=transport)


def test_embed_shows_how_alike_each_two_texts_are(server: Server) -> None:
    result = CliRunner().invoke(app, ["embed", "a", "b", "c"])

    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert rows == [
        ["1", "a", "1.00", "0.00", "0.71"],
        ["2", "b", "0.00", "1.00", "0.71"],
        ["3", "c", "0.71", "0.71", "1.00"],
    ]


def test_a_long_text_leaves_room_for_the_numbers(server: Server) -> None:
    result = CliRunner().invoke(app, ["embed", "a" * 200, "b" * 200])

    assert [line.split()[2:] for line in result.stdout.splitlines()[1:]] == [["1.00", "0.00"], ["0.00", "1.00"]]


def test_embed_prints_a_line_of_json_for_each_line_of_a_pipe(server: Server) -> None:
    result = CliRunner().invoke(app, ["embed", "--json"], input="a\n\nb\n")

    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"text": "a", "embedding": [1.0, 0.0]},
        {"text": "b", "embedding": [0.0, 2.0]},
    ]


def test_embed_sends_what_was_chosen_and_nothing_else(server: Server) -> None:
    options = ["--input-type", "query", "--dimensions", "8", "--truncate", "end", "--model", "mine"]

    CliRunner().invoke(app, ["embed", "--json", "a", *options])
    CliRunner().invoke(app, ["embed", "--json", "a"])

    chosen, silent = ({name: value for name, value in each.items() if value is not None} for each in server.asked)
    assert chosen["model"] == "mine"
    assert (chosen["input_type"], chosen["dimensions"], chosen["truncate"]) == ("query", 8, "end")
    assert set(silent) == {"input", "encoding_format"}


def test_embed_sends_many_texts_in_parts(server: Server) -> None:
    result = CliRunner().invoke(app, ["embed", "--json"], input="a\n" * 600)

    assert [len(each["input"]) for each in server.asked] == [256, 256, 88]
    assert len(result.stdout.splitlines()) == 600


def test_a_text_that_is_refused_is_told_by_its_number_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        texts = json.loads(request.content)["input"]
        if "long" not in texts:
            return Server()(request)
        message = f"input[{texts.index('long')}] is 300 tokens, the limit is 256"
        return httpx2.Response(400, json={"error": {"message": message}})

    monkeypatch.setattr("cli.search.open_client", lambda _url: client(refuse))
    result = CliRunner().invoke(app, ["embed", "--json"], input="a\n" * 262 + "long\n")

    assert result.exit_code == 1
    assert result.stderr == "zhinao: HTTP 400: text 263 (long…) is 300 tokens, the limit is 256\n"


def test_a_reader_who_has_seen_enough_is_no_failure_to_tell(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    echo = typer.echo
    monkeypatch.setattr(
        "typer.echo", lambda line, err=False: echo(line, err=True) if err else os.write(write_end, line.encode())
    )

    result = CliRunner().invoke(app, ["embed", "--json", "a", "b"])

    os.close(write_end)
    assert (result.exit_code, result.output) == (1, "")


def test_embed_refuses_a_table_wider_than_a_terminal(server: Server) -> None:
    result = CliRunner().invoke(app, ["embed", *["a"] * 13])

    assert (result.exit_code, server.asked) == (2, [])
    assert "13 texts" in result.stderr and "12" in result.stderr and "--json" in result.stderr


def test_rerank_shows_the_best_first_with_bars(server: Server) -> None:
    result = CliRunner().invoke(app, ["rerank", "sky?", "Grass [is] green.", "It is blue.", "--top-n", "2"])

    assert server.asked[0]["documents"] == ["Grass [is] green.", "It is blue."]
    assert (server.asked[0]["query"], server.asked[0]["top_n"]) == ("sky?", 2)
    first, second = (line.split() for line in result.stdout.splitlines()[1:])
    assert first == ["1", "█" * 15, "0.750", "It", "is", "blue."]
    assert second == ["2", "█" * 2, "0.100", "Grass", "[is]", "green."]


def test_rerank_prints_a_line_of_json_for_each_document(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "passages.txt"
    file.write_text("Grass [is] green.\nIt is blue.\n")

    result = CliRunner().invoke(app, ["rerank", "sky?", "-f", str(file), "--json"])

    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"index": 1, "relevance_score": 0.75, "raw_score": 1.1, "document": "It is blue."},
        {"index": 0, "relevance_score": 0.1, "raw_score": -2.2, "document": "Grass [is] green."},
    ]


@pytest.mark.parametrize(("threshold", "num_dim"), [(None, 0), (0.1, 0), (0.5, 1), (0.9, 2)])
def test_documents_below_the_models_threshold_are_dim(threshold: float | None, num_dim: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)

    table = ranking_table(RESULTS, threshold)
    console.print(table)

    assert [row.style for row in table.rows].count("dim") == num_dim


@pytest.mark.parametrize("command", [["embed", "a"], ["rerank", "q", "a"]])
def test_a_servers_error_is_its_message_in_one_line(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    def refuse(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(404, json={"error": {"message": "no embed model\nis served here"}})

    monkeypatch.setattr("cli.search.open_client", lambda _url: client(refuse))

    result = CliRunner().invoke(app, command)

    assert (result.exit_code, result.stderr) == (1, "zhinao: HTTP 404: no embed model is served here\n")


@pytest.mark.parametrize("command", [["embed", "a"], ["rerank", "q", "a"]])
def test_no_mesh_is_said_with_the_way_to_start_one(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--url", "http://127.0.0.1:1"])

    assert result.exit_code == 1
    assert "http://127.0.0.1:1 does not answer" in result.stderr and "zhinao up" in result.stderr


def test_typed_texts_come_before_the_files(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_bytes("二\n\r\n  \nthree \n".encode() + b"\xff")

    assert read_texts(["one"], file, what="texts") == ["one", "二", "three ", "\ufffd"]


def test_only_a_line_feed_ends_a_text(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_bytes("a\x0cb\x85c\u2028d\re\r\nf".encode())

    assert read_texts([], file, what="texts") == ["a\x0cb\x85c\u2028d\re", "f"]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"two\n")))

    assert read_texts(["one"], Path("-"), what="texts") == ["one", "two"]


@pytest.mark.parametrize("piped", [b"", b"\n \n"])
def test_no_text_at_all_is_refused(monkeypatch: pytest.MonkeyPatch, piped: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped)))

    with pytest.raises(UsageFailure, match="no documents: every line is empty"):
        read_texts([], None, what="documents")


def test_at_a_keyboard_the_ways_to_give_texts_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard = io.TextIOWrapper(io.BytesIO(b""))
    monkeypatch.setattr(keyboard, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", keyboard)

    with pytest.raises(UsageFailure, match="no texts: type some, name a file"):
        read_texts([], None, what="texts")
