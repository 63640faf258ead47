"""The real Triton with a stand-in model, started as the mesh starts it."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from mesh import triton
from mesh.ports import choose_block
from mesh.probe import Health, ping_worker

ROOT = Path(__file__).parents[2]
PREFIX = f"zhinao_test{os.getpid()}_"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    grpc: str

    def wait_for(self, health: Health) -> Health:
        deadline_s = time.monotonic() + 20
        while (found := ping_worker(self.grpc, "chat")) is not health and time.monotonic() < deadline_s:
            assert self.process.poll() is None, "tritonserver ended"
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    repository = tmp_path / "stand-in"
    (repository / "chat" / "1").mkdir(parents=True)
    shutil.copy(ROOT / "model_repository" / "chat" / "config.pbtxt", repository / "chat")
    shutil.copy(ROOT / "tests" / "fakes" / "echo_chat_model.py", repository / "chat" / "1" / "model.py")
    folder = tmp_path / "a 'folder' with spaces"
    triton.lay_out(folder, repository)
    http = choose_block(os.getpid(), 3)
    command = triton.command("chat", (http, http + 1, http + 2), PREFIX)
    environment = {**os.environ, **triton.environment()}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield Server(process, f"127.0.0.1:{http + 1}")
    finally:
        process.kill()
        process.wait()
        end_stubs()
        triton.remove_shared_memory(PREFIX)


def stubs() -> list[psutil.Process]:
    """The Python processes behind this run's servers, those that outlived theirs too."""
    living = psutil.process_iter(["cmdline"])
    return [p for p in living if any(word.startswith(PREFIX) for word in p.info["cmdline"] or [])]


def end_stubs() -> None:
    """A stub whose server was killed waits for ever in a memory that nobody else has."""
    left = stubs()
    for stub in left:
        stub.kill()
    psutil.wait_procs(left, timeout=5)


def stub_of(server: Server) -> psutil.Process:
    (stub,) = [child for child in psutil.Process(server.process.pid).children(recursive=True) if "stub" in child.name()]
    return stub


def test_ping_says_starting_while_nothing_listens() -> None:
    assert ping_worker(f"127.0.0.1:{choose_block(os.getpid(), 1)}", "chat", timeout_s=0.2) is Health.STARTING


def test_ping_passes_on_a_served_model_and_sigterm_leaves_no_shared_memory(server: Server) -> None:
    assert server.wait_for(Health.READY) is Health.READY
    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(timeout=20) == 0
    assert triton.remove_shared_memory(PREFIX) == 0


def test_ping_fails_when_the_stub_is_dead(server: Server) -> None:
    assert server.wait_for(Health.READY) is Health.READY

    stub_of(server).kill()

    # Triton lives on and calls itself ready, or now and then aborts over it: never may it look ready to us.
    until_s = time.monotonic() + 20
    while (found := ping_worker(server.grpc, "chat")) is Health.READY and time.monotonic() < until_s:
        pass
    assert found is not Health.READY


def test_shared_memory_of_a_killed_server_is_found_by_its_prefix(server: Server) -> None:
    assert server.wait_for(Health.READY) is Health.READY

    server.process.kill()
    server.process.wait()

    assert triton.remove_shared_memory(PREFIX) > 0
    assert not list(triton.SHARED_MEMORY.glob(f"{PREFIX}*"))


def test_the_installed_stub_is_not_the_one_that_runs(server: Server, tmp_path: Path) -> None:
    server.wait_for(Health.READY)

    assert Path(stub_of(server).exe()).is_relative_to(tmp_path)
