"""What every tier shares: the demo checkpoints, patience, and an end that cleans up."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

from mesh.cache import demo_checkpoint

# pytest's own timeout is the limit: a busy machine may hold up any single example
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_configure() -> None:
    """A killed run ends as one that Ctrl-C ends: fixtures are torn down, so that no mesh and no stub stays behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def demo_chat_model() -> Path:
    """Folder of the demo chat checkpoint; `make setup` puts it there."""
    path = demo_checkpoint()
    assert path.is_dir(), f"{path} is missing: run `make setup`"
    return path


@pytest.fixture(scope="session")
def demo_embed_model() -> Path:
    """Folder of the demo encoder; `make setup` puts it there."""
    path = demo_checkpoint("embed")
    assert path.is_dir(), f"{path} is missing: run `make setup`"
    return path
