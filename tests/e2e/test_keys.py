"""Keys against the real mesh: tenants share no cached prompt, and a strict key refuses what has no effect."""

from collections.abc import Iterator
from contextlib import ExitStack

import openai
import pytest

from tests.e2e.conftest import CHAT_ONLY, free_port, zhinao
from tests.fixtures.tiny_zhinao import write_tiny_zhinao

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

KEYS = {"first": ("--tenant", "a"), "second": ("--tenant", "a"), "other": ("--tenant", "b"), "strict": ("--strict",)}
PROMPT = "The same long beginning of a prompt, which takes more than one block of the cache. " * 2


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, openai.OpenAI]]:
    """One official client for each key."""
    folder = tmp_path_factory.mktemp("keys")
    state, port = str(folder / "state"), free_port()
    secrets = {
        name: zhinao("keys", "create", name, *words, "--state", state).stdout.strip() for name, words in KEYS.items()
    }
    url = f"http://127.0.0.1:{port}/v1"
    try:
        checkpoint = write_tiny_zhinao(folder, window=1024)
        zhinao(
            "up", "--detach", "--port", str(port), "--state", state, "--model", f"tiny=chat:{checkpoint}", *CHAT_ONLY
        )
        with ExitStack() as closing:
            yield {
                name: closing.enter_context(openai.OpenAI(base_url=url, api_key=key, max_retries=0))
                for name, key in secrets.items()
            }
    finally:
        zhinao("down", "--state", state)


def cached_tokens(client: openai.OpenAI) -> int:
    completion = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=1)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    return completion.usage.prompt_tokens_details.cached_tokens or 0


def test_keys_of_one_tenant_share_cached_prompts_and_no_other_tenant_does(clients: dict[str, openai.OpenAI]) -> None:
    assert cached_tokens(clients["first"]) == 0
    assert cached_tokens(clients["other"]) == 0
    shared = cached_tokens(clients["first"])
    assert shared > 0
    assert cached_tokens(clients["second"]) == cached_tokens(clients["other"]) == shared


def test_a_strict_key_refuses_what_has_no_effect_and_others_are_told(clients: dict[str, openai.OpenAI]) -> None:
    def ask(name: str) -> dict[str, str]:
        raw = clients[name].completions.with_raw_response.create(model="tiny", prompt="hi", max_tokens=1, user="me")
        return dict(raw.headers)

    assert ask("first")["x-ignored-params"] == "user"
    with pytest.raises(openai.BadRequestError, match="strict") as refused:
        ask("strict")
    assert refused.value.param == "user"
