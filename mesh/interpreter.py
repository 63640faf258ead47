"""Says where this Python's shared library lies; Triton's Python backend embeds it. Standard library only."""

import sysconfig
from pathlib import Path


def shared_library() -> Path | None:
    """Path of libpython of exactly this interpreter, or None where it was built without one."""
    name = sysconfig.get_config_var("INSTSONAME")
    folder = sysconfig.get_config_var("LIBDIR")
    path = Path(folder) / name
    return path if ".so" in name and path.exists() else None
