"""Decides how a checkpoint folder comes into being, whole or not at all; does not know what it holds."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """Yield an empty folder beside `target`; when the block ends without an error it is renamed to `target`.

    Raises FileExistsError, and leaves the other folder as it is, when `target` is there at that moment and not empty.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as workspace:
        folder = Path(workspace) / target.name
        folder.mkdir()
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # weights are saved for their writer only, and a cache may be shared
        try:
            os.rename(folder, target)
        except OSError as error:  # ENOTEMPTY, EEXIST or ENOTDIR by platform; anything else stays what it is
            if target.exists():
                raise FileExistsError(f"{target} is there already") from error
            raise
