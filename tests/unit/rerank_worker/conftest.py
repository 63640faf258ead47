"""Checkpoints that the tests of the rerank worker share."""

from pathlib import Path

import pytest

from tests.fixtures.tiny_llama import write_tiny_llama
from tests.fixtures.tiny_reranker import TinyReranker, write_tiny_reranker


@pytest.fixture(scope="session", params=["hidden", "logits"])
def reranker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyReranker:
    return write_tiny_reranker(tmp_path_factory.mktemp(request.param), reads=request.param)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("llama"))
