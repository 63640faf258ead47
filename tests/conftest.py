"""What every tier shares: the demo checkpoint."""

from pathlib import Path

import pytest

from mesh.cache import demo_checkpoint


@pytest.fixture(scope="session")
def demo_chat_model() -> Path:
    """Folder of the demo chat checkpoint; `make setup` puts it there."""
    path = demo_checkpoint()
    assert path.is_dir(), f"{path} is missing: run `make setup`"
    return path
