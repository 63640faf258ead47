"""What `zhinao up` takes, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.failures import UsageFailure
from cli.main import app
from cli.options import UpWords, WantedModel, check_checkpoint, read_scale, to_options, wanted_models
from cli.weights import find_checkpoint
from mesh.plan import Model, ModelKind

CHAT_ONLY = UpWords(
    host="127.0.0.1",
    port=8360,
    sources={"chat": None, "embed": None, "rerank": None},
    models=[],
    served_model_names=[],
    dtypes={"chat": "auto", "embed": "auto", "rerank": "auto"},
    max_model_len=None,
    replicas="embed=0,rerank=0",
    num_gateways=1,
)


def words(**changes: Any) -> UpWords:
    return replace(CHAT_ONLY, **changes)


def test_without_words_a_demo_model_of_each_kind_is_served_under_its_default_id() -> None:
    assert wanted_models(words(replicas="")) == [
        WantedModel("zhinao-chat", "chat", None),
        WantedModel("zhinao-embed", "embed", None),
        WantedModel("zhinao-rerank", "rerank", None),
    ]


@pytest.mark.parametrize("kind", ["chat", "embed", "rerank"])
def test_a_model_of_any_kind_may_be_given_another_id(kind: str) -> None:
    sources = {**CHAT_ONLY.sources, kind: "/w"}

    wanted = wanted_models(words(sources=sources, served_model_names=[f"{kind}=mine"], replicas=""))

    assert WantedModel("mine", kind, "/w") in wanted  # type: ignore[arg-type]
    assert len(wanted) == 3


def test_repeated_models_keep_their_order_and_replace_the_demo_model_of_their_kind() -> None:
    wanted = wanted_models(
        words(models=["b=chat:/b", "e=embed:/e", "a=chat:/with:colon=and-more"], replicas="rerank=0")
    )

    assert wanted == [
        WantedModel("b", "chat", "/b"),
        WantedModel("a", "chat", "/with:colon=and-more"),
        WantedModel("e", "embed", "/e"),
    ]


def test_the_chat_model_comes_before_further_models() -> None:
    wanted = wanted_models(words(sources={**CHAT_ONLY.sources, "chat": "/w"}, models=["b=chat:/b"]))

    assert [model.id for model in wanted] == ["zhinao-chat", "b"]


@pytest.mark.parametrize(
    ("replicas", "kinds"),
    [("chat=0", ["embed", "rerank"]), ("chat=0,embed=0,rerank=0", []), ("rerank=1,embed=0", ["chat", "rerank"])],
)
def test_no_replicas_leave_a_kind_out(replicas: str, kinds: list[str]) -> None:
    assert [model.kind for model in wanted_models(words(replicas=replicas))] == kinds


def test_replicas_are_counted_by_kind_and_what_is_not_named_has_one() -> None:
    options = to_options(words(replicas="chat=2,embed=0"), [])

    assert options.replicas == {"chat": 2, "embed": 0, "rerank": 1}


def test_the_most_workers_are_read_by_kind() -> None:
    assert to_options(words(replicas="chat=2", autoscale="chat=4"), []).autoscale == {"chat": 4}


@pytest.mark.parametrize("autoscale", ["chat=1", "chat=x", "web=2", "embed=0"])
def test_a_most_that_cannot_be_is_named(autoscale: str) -> None:
    with pytest.raises(UsageFailure, match=autoscale):
        to_options(words(replicas="chat=2", autoscale=autoscale), [])


def test_scale_takes_kinds_and_model_ids() -> None:
    assert read_scale(["chat=3", "org/a=b=1"]) == {"chat": 3, "org/a=b": 1}


@pytest.mark.parametrize("word", ["chat", "=3", "chat=", "chat=-1", "chat=two"])
def test_scale_names_a_word_it_cannot_read(word: str) -> None:
    with pytest.raises(UsageFailure, match=word):
        read_scale([word])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"models": ["a=/no/kind"]}, "'a=/no/kind'"),
        ({"models": ["a=chat:"]}, "'a=chat:'"),
        ({"models": ["a b=chat:/w"]}, "'a b'"),
        ({"models": ["a=chat:/w", "a=chat:/x"]}, "'a'"),
        ({"models": ["a=chat:/w"], "served_model_names": ["chat=b"]}, "--served-model-name"),
        ({"served_model_names": ["mine"]}, "'mine'"),
        ({"replicas": "chat"}, "'chat'"),
        ({"replicas": "chat=-1"}, "'chat=-1'"),
        ({"replicas": "web=1"}, "'web=1'"),
        ({"models": ["a=web:/w"]}, "'a=web:/w'"),
        ({"models": ["e=embed:/w"], "served_model_names": ["embed=x"]}, "--embed-model"),
        ({"served_model_names": ["web=x"]}, "'web=x'"),
        ({"dtypes": {"embed": "int4"}}, "--embed-dtype int4"),
    ],
)
def test_a_word_that_makes_no_sense_is_named(changes: dict[str, object], part: str) -> None:
    with pytest.raises(UsageFailure, match=part):
        wanted_models(words(**changes))


def test_a_host_must_be_an_address_and_localhost_is_one() -> None:
    assert to_options(words(host="localhost"), []).host == "127.0.0.1"
    with pytest.raises(UsageFailure, match="'my-machine'"):
        to_options(words(host="my-machine"), [])


def test_a_folder_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match=r"'m'.*config\.json"):
        check_checkpoint(Model("m", "chat", str(tmp_path)))


SIZES = {
    "vocab_size": 32,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
}


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("chat", '{"hidden_size": ', "is not JSON"),
        ("chat", "[]", "must hold a JSON object, not list"),
        ("chat", json.dumps({"hidden_size": 8}), "architectures is None"),
        ("chat", json.dumps({"architectures": ["GPT2LMHeadModel"]}), "architectures is ['GPT2LMHeadModel']"),
        ("chat", json.dumps({"architectures": ["LlamaForCausalLM"]}), "num_attention_heads"),
        ("chat", json.dumps({"architectures": ["BertModel"], **SIZES}), "architectures is ['BertModel']"),
        (
            "embed",
            json.dumps({"architectures": ["LlamaForCausalLM"], **SIZES}),
            "architectures is ['LlamaForCausalLM']",
        ),
        ("rerank", json.dumps({"architectures": ["BertModel"], **SIZES}), "architectures is ['BertModel']"),
    ],
)
def test_a_config_that_no_worker_of_the_kind_runs_is_refused_before_anything_starts(
    kind: ModelKind, config: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(config)

    with pytest.raises(UsageFailure) as failure:
        check_checkpoint(Model("m", kind, str(tmp_path)))

    assert said in str(failure.value)


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("chat", "LlamaForCausalLM"),
        ("embed", "BertModel"),
        ("rerank", "BertForSequenceClassification"),
        ("rerank", "Qwen2ForCausalLM"),
    ],
)
def test_a_config_of_the_kind_is_taken(kind: ModelKind, architecture: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], **SIZES}))

    check_checkpoint(Model("m", kind, str(tmp_path)))


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)

    assert find_checkpoint("weights") == tmp_path / "weights"


@pytest.mark.parametrize("source", ["/no/such/folder", ""])
def test_a_source_that_is_neither_folder_nor_name_is_refused(source: str) -> None:
    with pytest.raises(UsageFailure, match=f"{source!r} is neither a folder nor a name"):
        find_checkpoint(source)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["up", "--chat-dtype", "int3"], 2, "zhinao: --chat-dtype int3: expected one of auto, fp32"),
        (["up", "--chat-model", "/no/such/folder"], 2, "neither a folder"),
        (["up", "--chat-model", "~nobody-is-called-so/x"], 2, "neither a folder"),
        (["up", "--port", "0"], 2, "--port"),
        (
            ["up", "--host", "nonsense.invalid", "--replicas", "chat=0,embed=0,rerank=0"],
            2,
            "zhinao: --host 'nonsense.invalid' is not an IP address",
        ),
        (["up", "--embed-model", "/no/such/folder"], 2, "neither a folder"),
        (["up", "--rerank-dtype", "fp64"], 2, "--rerank-dtype fp64: expected one of auto"),
        (["down"], 0, "no mesh was running"),
        (["status"], 0, "no mesh runs in"),
    ],
)
def test_exit_codes_and_words_at_the_terminal(arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, "--state", str(tmp_path)])

    assert result.exit_code == code, result.output
    assert said in result.output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["down"], 0, "no mesh was running: {} does not exist"),
        (["restart"], 1, "zhinao: there is no mesh: {} does not exist"),
        (["scale", "chat=2"], 1, "zhinao: there is no mesh: {} does not exist"),
    ],
)
def test_a_state_folder_that_is_not_there_is_named_and_not_made(
    words: list[str], code: int, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "mistyped"

    result = CliRunner().invoke(app, [*words, "--state", str(folder)])

    assert (result.exit_code, result.output) == (code, said.format(folder) + "\n")
    assert not folder.exists()


def test_a_state_folder_that_cannot_be_made_is_named_without_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    result = CliRunner().invoke(app, ["up", "--state", str(file / "state")])

    assert result.exit_code == 1
    assert result.output == f"zhinao: {file / 'state'}: Not a directory\n"


@pytest.mark.parametrize("command", ["up", "down"])
def test_a_file_is_no_state_folder(command: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    result = CliRunner().invoke(app, [command, "--state", str(file)])

    assert (result.exit_code, result.output) == (
        1,
        f"zhinao: {file} is a file; give --state a new or an empty folder\n",
    )


def test_status_of_no_mesh_is_json_with_no_parts(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", "--json", "--state", str(tmp_path)])

    assert json.loads(result.output) == {"edge": None, "parts": []}


def test_the_collector_of_spans_is_kept_with_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")

    assert to_options(words(), []).collector == "http://127.0.0.1:4318"
