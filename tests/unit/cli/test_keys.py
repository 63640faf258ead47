"""`zhinao keys` and `zhinao usage`, and when `zhinao up` asks for keys."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.failures import UsageFailure
from cli.keys import DATABASE_VARIABLE, choose_database, own_key
from cli.main import app
from mesh.plan import Options, Plan, save_plan
from mesh.state import StateFolder
from services.gateway.tenancy.keys import hash_secret
from services.gateway.tenancy.store import Store


@pytest.fixture(autouse=True)
def _no_database_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATABASE_VARIABLE, raising=False)


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "mesh")


def zhinao(state: StateFolder, *words: str, code: int = 0) -> str:
    """What the command prints on standard output."""
    result = CliRunner().invoke(app, [*words, "--state", str(state.path)])
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_new_key_is_printed_once_and_kept_as_its_hash(state: StateFolder) -> None:
    secret = zhinao(state, "keys", "create", "acme", "--model", "m", "--tokens-per-minute", "5").strip()

    assert secret.encode() not in state.database.read_bytes()
    assert state.database.stat().st_mode & 0o777 == 0o600
    (line,) = zhinao(state, "keys", "list", "--json").splitlines()
    key = json.loads(line)
    assert (key["name"], key["tenant"], key["limits"]["models"], key["limits"]["tokens_per_minute"]) == (
        "acme",
        "acme",
        ["m"],
        5,
    )


def test_a_name_is_used_once_and_a_key_that_is_not_there_cannot_be_revoked(state: StateFolder) -> None:
    zhinao(state, "keys", "create", "acme")

    zhinao(state, "keys", "create", "acme", code=1)
    zhinao(state, "keys", "revoke", "other", code=1)
    zhinao(state, "keys", "revoke", "acme")

    assert json.loads(zhinao(state, "keys", "list", "--json"))["revoked_at"] is not None


def test_usage_of_no_requests_is_empty(state: StateFolder) -> None:
    assert zhinao(state, "usage", "--json") == ""


def test_on_loopback_no_key_is_needed_until_there_was_one(state: StateFolder) -> None:
    before = choose_database(state, "127.0.0.1", insecure_no_keys=False)
    zhinao(state, "keys", "create", "acme")
    zhinao(state, "keys", "revoke", "acme")

    assert before is None
    assert choose_database(state, "127.0.0.1", insecure_no_keys=False) == f"sqlite:///{state.database}"
    assert choose_database(state, "127.0.0.1", insecure_no_keys=True) is None


def test_an_edge_that_others_reach_is_refused_without_keys(state: StateFolder) -> None:
    with pytest.raises(UsageFailure, match="zhinao keys create"):
        choose_database(state, "0.0.0.0", insecure_no_keys=False)

    assert choose_database(state, "0.0.0.0", insecure_no_keys=True) is None
    zhinao(state, "keys", "create", "acme")
    assert choose_database(state, "0.0.0.0", insecure_no_keys=False) is not None


def test_no_keys_and_a_database_of_keys_contradict_each_other(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, "sqlite:////nowhere")

    with pytest.raises(UsageFailure, match="contradicts"):
        choose_database(state, "127.0.0.1", insecure_no_keys=True)


def test_the_name_of_the_own_key_is_nobody_elses_and_stays_out_of_the_list(state: StateFolder) -> None:
    zhinao(state, "keys", "create", "acme")

    with own_key(f"sqlite:///{state.database}"):
        zhinao(state, "keys", "create", "zhinao-up", code=1)
        (line,) = zhinao(state, "keys", "list", "--json").splitlines()

    assert json.loads(line)["name"] == "acme"


def test_the_key_of_a_start_works_only_while_it_lasts(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/keys.sqlite3"
    for _ in range(2):  # the second start renews it
        with own_key(url) as secret:
            assert secret is not None
            store = Store.open(url)
            found = store.find_key(hash_secret(secret))
            assert found is not None and found.revoked_at is None
        found = store.find_key(hash_secret(secret))
        assert found is not None and found.revoked_at is not None
        store.close()


@pytest.mark.parametrize("database_url", [None, "sqlite:///keys"])
def test_a_key_of_a_mesh_that_runs_without_keys_says_that_it_is_not_asked_for_yet(
    state: StateFolder, database_url: str | None
) -> None:
    state.runtime.mkdir(parents=True)
    (state.path / "lock").touch()
    options = Options("127.0.0.1", 8360, (), {}, None, database_url=database_url)
    save_plan(Plan(options, "http://edge", "127.0.0.1:1", ()), state.plan)

    result = CliRunner().invoke(app, ["keys", "create", "acme", "--state", str(state.path)])

    assert ("http://edge still serves whoever comes" in result.stderr) is (database_url is None)
    assert len(result.stdout.split()) == 1
