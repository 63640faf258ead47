"""Small checkpoint folders that hold a tokenizer and no weights."""

from pathlib import Path

import pytest

from tests.fixtures.llama_tokenizer import write_llama_tokenizer
from tests.fixtures.zhinao_vocab import write_zhinao_vocabulary


@pytest.fixture(scope="session")
def zhinao_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zhinao")
    write_zhinao_vocabulary(folder)
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_llama_tokenizer(folder)
    return folder
