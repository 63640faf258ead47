"""Breaks parts of a mesh of its own under steady load, one after the other, and tells what clients saw of it.

`make drill` runs all drills; `--only WORD` those whose name holds the word. Exits with 1 if an answer was lost, broken,
wrong or hung, or not all was well again. A killed gateway may break streams, a killed Envoy lose what is under way too.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from types import MappingProxyType
from typing import Final

import httpx
import psutil

from bench.drill_load import CHAT, Load, Tally
from bench.drill_outcome import KILL_ENVOY, KILL_GATEWAY, Course, Look, Outcome, recovery_s, table
from bench.machine import RESULTS, read_head
from bench.private_mesh import ZHINAO, PrivateMesh, private_mesh
from mesh.load import parse
from mesh.state import StateFolder
from mesh.status import PartStatus, mesh_status
from mesh.supervisord import WATCHDOG, Supervisor

_CALM_S: Final = 4.0  # before and after
_LONGEST_S: Final = 180.0  # of a recovery
_SETTLED_S: Final = 3.0  # of nothing amiss: a fault takes some time to be seen
_LOOK_EVERY_S: Final = 0.2
_HELD_S: Final = 15.0  # how long bad clients stay
_NUM_SLOW, _NUM_HALF_OPEN = 16, 64


class Scene:
    """A mesh that is to be broken."""

    def __init__(self, mesh: PrivateMesh) -> None:
        self.mesh = mesh
        self.state = StateFolder(mesh.state.resolve())

    def parts(self) -> dict[str, PartStatus]:
        """Every part by name."""
        return {part.name: part for part in mesh_status(self.state).parts}

    def is_well(self) -> bool:
        """Whether all parts are ready, all workers listed, and the watchdog is there to see to it."""
        if Supervisor(self.state).states()[WATCHDOG].state != "RUNNING":
            return False
        return all(part.state == "ready" and part.serving is not False for part in self.parts().values())

    def pid(self, name: str) -> int:
        """The process of a part."""
        pid = self.parts()[name].pid
        assert pid is not None, f"{name} runs"
        return pid

    def busy_chat_worker(self) -> str:
        """The chat worker with the most streams."""
        chats = [part for part in self.parts().values() if part.kind == "chat" and part.load is not None]
        return max(chats, key=lambda part: part.load.running if part.load else 0).name

    def num_retries(self) -> int:
        """How often the gateways asked again so far."""
        urls = [part.metrics for part in self.parts().values() if part.kind == "gateway"]
        return sum(int(parse(httpx.get(str(url)).text).get("mesh_retries_total", 0)) for url in urls)


def _kill_worker(scene: Scene) -> None:
    os.kill(scene.pid(scene.busy_chat_worker()), signal.SIGKILL)


def _stub(scene: Scene) -> psutil.Process:
    children = psutil.Process(scene.pid(scene.busy_chat_worker())).children(recursive=True)
    return next(child for child in children if "python_backend_stub" in child.name())


def _kill_stub(scene: Scene) -> None:
    _stub(scene).kill()


def _stop_stub(scene: Scene) -> None:
    _stub(scene).suspend()


def _stop_worker(scene: Scene) -> None:
    os.killpg(scene.pid(scene.busy_chat_worker()), signal.SIGSTOP)


def _kill_search(scene: Scene) -> None:
    for name in ("zhinao-embed-0", "zhinao-rerank-0"):
        os.kill(scene.pid(name), signal.SIGKILL)


def _kill_watchdog(scene: Scene) -> None:
    pid = Supervisor(scene.state).states()[WATCHDOG].pid
    assert pid is not None, "the watchdog runs"
    os.kill(pid, signal.SIGKILL)


def _kill_gateway(scene: Scene) -> None:
    os.kill(scene.pid("gateway-0"), signal.SIGKILL)


def _kill_envoy(scene: Scene) -> None:
    """The one that serves; its parent ends with it, and both are started again."""
    psutil.Process(scene.pid("envoy")).children()[-1].kill()


def _zhinao(scene: Scene, *words: str) -> None:
    subprocess.run([ZHINAO, *words, "--state", str(scene.state.path)], check=True, stdout=subprocess.DEVNULL)


def _restart_all(scene: Scene) -> None:
    _zhinao(scene, "restart", "--workers")


def _hand_over_envoy(scene: Scene) -> None:
    Supervisor(scene.state).hang_up("envoy")


def _scale(scene: Scene) -> None:
    _zhinao(scene, "scale", "chat=3")
    _zhinao(scene, "scale", "chat=2")


def _connect(scene: Scene, stack: ExitStack) -> socket.socket:
    connection = stack.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((scene.mesh.host, scene.mesh.port))
    return connection


def _slow_readers(scene: Scene) -> None:
    """Clients that ask for long streams and read some bytes a second of them."""
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 400})
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: drill\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with ExitStack() as stack:
        clients = [_connect(scene, stack) for _ in range(_NUM_SLOW)]
        for client in clients:
            client.sendall((head + body).encode())
        end_s = time.monotonic() + _HELD_S
        while time.monotonic() < end_s:
            for client in clients:
                client.recv(16)
            time.sleep(0.5)


def _half_open(scene: Scene) -> None:
    """Clients that begin a request and say no more."""
    with ExitStack() as stack:
        for _ in range(_NUM_HALF_OPEN):
            _connect(scene, stack).sendall(f"POST {CHAT} HTTP/1.1\r\nhost: drill\r\ncontent-le".encode())
        time.sleep(_HELD_S)


_DRILLS: Final[Mapping[str, Callable[[Scene], None]]] = MappingProxyType(
    {
        "nothing": lambda _: time.sleep(_HELD_S),
        "kill -9 the busiest chat worker's Triton": _kill_worker,
        "kill -9 its Python stub": _kill_stub,
        "SIGSTOP a chat worker, Triton and stub": _stop_worker,
        "SIGSTOP its stub alone": _stop_stub,
        "kill -9 an embedding and a reranking worker": _kill_search,
        "kill -9 the watchdog": _kill_watchdog,
        KILL_GATEWAY: _kill_gateway,
        KILL_ENVOY: _kill_envoy,
        "scale chat=3, then chat=2": _scale,
        "Envoy hands over to a new one": _hand_over_envoy,
        "restart --workers: every part in turn": _restart_all,
        f"{_NUM_SLOW} clients that read slowly": _slow_readers,
        f"{_NUM_HALF_OPEN} half-open connections": _half_open,
    }
)


def _look_while(act: Callable[[Scene], None], scene: Scene) -> list[Look]:
    """Look at the mesh while something is done to it, and then until it has been well for some time."""
    looks: list[Look] = []
    began_s = well_s = time.monotonic()  # since well_s no look found anything amiss
    with ThreadPoolExecutor(1) as thread:
        acting = thread.submit(act, scene)
        while not acting.done() or (time.monotonic() - well_s < _SETTLED_S and time.monotonic() < began_s + _LONGEST_S):
            is_well = scene.is_well()
            looks.append(Look(time.monotonic() - began_s, is_well))
            well_s = well_s if is_well else time.monotonic()
            time.sleep(_LOOK_EVERY_S)
        acting.result()
    return looks


def _drill(name: str, act: Callable[[Scene], None], scene: Scene) -> Course:
    time.sleep(_CALM_S)
    retries, start_s = scene.num_retries(), time.monotonic()
    looks = _look_while(act, scene)
    end_s = time.monotonic()
    time.sleep(_CALM_S)
    gained = scene.num_retries() - retries
    sys.stderr.write(f"{name}: over after {end_s - start_s:.1f} s\n")
    return Course(name, start_s, end_s, recovery_s(looks), gained if gained >= 0 else None)


def main() -> None:
    """Run the drills, print the table, what went wrong, and keep both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="drills whose name holds this")
    words = parser.parse_args()
    chosen = {name: act for name, act in _DRILLS.items() if words.only in name}
    replicas = "chat=2,embed=2,rerank=2"
    with private_mesh("--replicas", replicas, "--gateway", "2", kinds=("chat", "embed", "rerank")) as mesh:
        scene, load, over = Scene(mesh), Load(mesh.url), threading.Event()
        asking = threading.Thread(target=lambda: asyncio.run(load.run(over.is_set)))
        asking.start()
        try:
            while len(load.answers) < 6 and asking.is_alive():
                time.sleep(0.1)
            courses = [_drill(name, act, scene) for name, act in chosen.items()]
        finally:
            over.set()
            asking.join()
    outcomes = [Outcome(each, Tally.of(load.answers, each.start_s, each.end_s)) for each in courses]
    problems = [each for each in load.answers if each.outcome != "whole"]
    head = read_head()
    sys.stdout.write(f"{head}\n\n{table(outcomes)}\n")
    for each in problems:
        sys.stdout.write(f"{each.kind}: {each.outcome}: {each.words[:300]}\n")
    RESULTS.mkdir(exist_ok=True)
    report = {"head": asdict(head), "outcomes": [asdict(each) for each in outcomes]}
    (RESULTS / "drill.json").write_text(json.dumps(report, indent=2) + "\n")
    if faults := [f"{each.course.name}: {', '.join(each.faults())}" for each in outcomes if each.faults()]:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
