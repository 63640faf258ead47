"""Several workers of one model: work is shared, and workers come, go and die while others answer."""

import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from mesh.load import parse, read_load
from tests.e2e.conftest import CHAT_ONLY, Mesh, free_port, wait_until, zhinao
from tests.fixtures.tiny_zhinao import write_tiny_zhinao

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

NUMBERS = itertools.count()


def ask(mesh: Mesh) -> httpx.Response:
    """Ask something new, so that prompts do not all begin alike and go to one worker."""
    messages = [{"role": "user", "content": f"{next(NUMBERS)}"}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 32}
    return httpx.post(f"{mesh.url}/v1/chat/completions", json=body, timeout=60)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Two workers of a tiny model."""
    folder = tmp_path_factory.mktemp("replicas")
    checkpoint = write_tiny_zhinao(folder, window=8192, endless=True)
    port, state = free_port(), folder / "state"
    words = ("--port", str(port), "--state", str(state), "--model", f"tiny=chat:{checkpoint}")
    try:
        zhinao("up", "--detach", *words, "--replicas", f"chat=2,{CHAT_ONLY[1]}")
        yield Mesh(f"http://127.0.0.1:{port}", state, {"tiny": checkpoint})
    finally:
        zhinao("down", "--state", str(state))


@pytest.fixture
def replicated(two_workers: Mesh) -> Mesh:
    """Both workers at work, whatever the test before did to them."""
    assert wait_until(lambda: all(part["serving"] for part in workers(two_workers).values()), 60)
    return two_workers


def workers(mesh: Mesh) -> dict[str, dict[str, object]]:
    return {part["name"]: part for part in mesh.parts() if part["model"]}


def under_load(mesh: Mesh, act: Callable[[], object]) -> list[str]:
    """What whole answers came to that were asked for all the time while act ran, four at once."""
    stop = threading.Event()

    def keep_asking() -> list[str]:
        ends: list[str] = []
        while not stop.is_set():
            try:
                answer = ask(mesh)
                ends.append("whole" if answer.status_code == 200 else f"{answer.status_code}: {answer.text[-300:]}")
            except httpx.HTTPError as error:
                ends.append(repr(error))
        return ends

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(keep_asking) for _ in range(4)]
        try:
            act()
        finally:
            stop.set()
        return [end for each in asking for end in each.result()]


def test_both_workers_are_listed_and_get_work(replicated: Mesh) -> None:
    ends = under_load(replicated, lambda: wait_until(lambda: False, 3))
    pages = [parse(httpx.get(str(part["metrics"])).text) for part in workers(replicated).values()]

    assert set(ends) == {"whole"}
    assert all(page["vllm:generation_tokens_total"] > 0 for page in pages)
    assert [part["serving"] for part in workers(replicated).values()] == [True, True]


def test_workers_come_and_go_under_load_and_no_request_fails(replicated: Mesh) -> None:
    state = str(replicated.state)

    grown_ends = under_load(replicated, lambda: zhinao("scale", "chat=3", "--state", state))
    grown = workers(replicated)
    shrunk_ends = under_load(replicated, lambda: zhinao("scale", "tiny=2", "--state", state))

    assert [*grown] == ["tiny-2", "tiny-0", "tiny-1"]
    assert wait_until(lambda: all(part["state"] == "ready" for part in workers(replicated).values()), 5)
    assert {*workers(replicated)} == {"tiny-0", "tiny-1"}
    assert [end for end in (*grown_ends, *shrunk_ends) if end != "whole"] == []
    assert not psutil.pid_exists(int(str(grown["tiny-2"]["pid"])))


def test_a_worker_that_cannot_start_is_removed_again(replicated: Mesh) -> None:
    config = replicated.checkpoints["tiny"] / "config.json"
    text = config.read_text()
    config.write_text("{}")
    try:
        result = zhinao("scale", "chat=3", "--state", str(replicated.state), check=False)
    finally:
        config.write_text(text)

    assert result.returncode == 1
    assert "tiny-2 ended during its start" in result.stderr
    assert {*workers(replicated)} == {"tiny-0", "tiny-1"}


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_worker_that_is_stopped_or_killed_is_unlisted_and_comes_back(
    replicated: Mesh, number: signal.Signals
) -> None:
    def serving() -> set[str]:
        return {name for name, part in workers(replicated).items() if part["serving"]}

    before = workers(replicated)["tiny-1"]

    os.kill(int(str(before["pid"])), number)

    assert wait_until(lambda: serving() == {"tiny-0"}, 8)
    assert ask(replicated).status_code == 200
    assert wait_until(lambda: serving() == {"tiny-0", "tiny-1"}, 60)
    assert workers(replicated)["tiny-1"]["restarts"] == int(str(before["restarts"])) + 1


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.2, "seed": 11}], ids=["greedy", "seeded"])
def test_a_stream_whose_worker_is_killed_goes_on_as_the_same_answer(
    replicated: Mesh, sampling: dict[str, object]
) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, **sampling}
    unbroken = httpx.post(f"{replicated.url}/v1/completions", json=body, timeout=120).json()

    parts = [*workers(replicated).values()]
    texts: list[str] = []
    killed: list[dict[str, object]] = []
    usage: dict[str, int] = {}
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", f"{replicated.url}/v1/completions", json=streamed, timeout=120) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                texts += [choice["text"] for choice in event["choices"]]
                usage = event.get("usage") or usage
            if len(texts) >= 5 and not killed:  # what is shown as running may be a moment old
                killed = [part for part in parts if (load := read_load(str(part["metrics"]))) and load.running]
                for part in killed:
                    os.kill(int(str(part["pid"])), signal.SIGKILL)

    assert len(killed) == 1
    assert "".join(texts) == unbroken["choices"][0]["text"]
    assert usage["completion_tokens"] == unbroken["usage"]["completion_tokens"] == 1500
