"""Adapters with Triton's module played by a fake; the chat adapter over a tiny Zhinao checkpoint."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from meshkit.wire import Operation
from tests.fakes import pb_utils
from tests.fixtures.tiny_zhinao import write_tiny_zhinao
from workerkit.settings import UnarySettings

MakeAdapter = Callable[..., Any]


@pytest.fixture(scope="session")
def tiny_zhinao(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_zhinao(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def endless_zhinao(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide window and no end tokens, so that an answer lasts as long as a test wants."""
    return write_tiny_zhinao(tmp_path_factory.mktemp("endless"), window=8192, endless=True)


@pytest.fixture
def inside_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's module is the fake; whatever met another one first is imported anew."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", pb_utils)
    adapters = (f"services.{kind}_worker.adapter" for kind in ("chat", "embed", "rerank"))
    for name in (*adapters, "workerkit.triton", "workerkit.replies", "workerkit.unary"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(pb_utils.MetricFamily, "metrics", {})


@pytest.fixture
def start_unary(inside_triton: None) -> Iterator[Callable[[Any, Operation, UnarySettings], Any]]:
    """Starts adapters of workers with one answer per request around any model, and closes them at the end."""
    with ExitStack() as closing:

        def start(model: Any, operation: Operation, settings: UnarySettings) -> Any:
            from workerkit.unary import UnaryAdapter

            adapter = UnaryAdapter(model, operation, settings)
            adapter.start()
            closing.callback(adapter.close)
            return adapter

        yield start


@pytest.fixture
def make_adapter(monkeypatch: pytest.MonkeyPatch, inside_triton: None, tiny_zhinao: Path) -> Iterator[MakeAdapter]:
    """Makes started adapters from CHAT_* settings and closes them at the end."""
    with ExitStack() as closing:

        def make(**settings: str) -> Any:
            from services.chat_worker.adapter import ChatAdapter

            for name, value in {"model_id": "tiny", "model_path": str(tiny_zhinao), **settings}.items():
                monkeypatch.setenv(f"CHAT_{name.upper()}", value)
            adapter = ChatAdapter.from_triton({})
            closing.callback(adapter.close)
            return adapter

        yield make
