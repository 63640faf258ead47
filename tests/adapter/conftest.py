"""The chat adapter over a tiny Zhinao checkpoint, with Triton's module played by a fake."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import pb_utils
from tests.fixtures.tiny_zhinao import write_tiny_zhinao

MakeAdapter = Callable[..., Any]


@pytest.fixture(scope="session")
def tiny_zhinao(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_zhinao(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def endless_zhinao(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide window and no end tokens, so that an answer lasts as long as a test wants."""
    return write_tiny_zhinao(tmp_path_factory.mktemp("endless"), window=8192, endless=True)


@pytest.fixture
def make_adapter(monkeypatch: pytest.MonkeyPatch, tiny_zhinao: Path) -> Iterator[MakeAdapter]:
    """Makes started adapters from CHAT_* settings and closes them at the end."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", pb_utils)
    for name in ("services.chat_worker.adapter", "workerkit.triton"):  # they hold on to the module they met first
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(pb_utils.MetricFamily, "metrics", {})
    with ExitStack() as closing:

        def make(**settings: str) -> Any:
            from services.chat_worker.adapter import ChatAdapter

            for name, value in {"model_id": "tiny", "model_path": str(tiny_zhinao), **settings}.items():
                monkeypatch.setenv(f"CHAT_{name.upper()}", value)
            adapter = ChatAdapter.from_triton({})
            closing.callback(adapter.close)
            return adapter

        yield make
