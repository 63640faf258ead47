"""`zhinao logs`: shows what the parts of a mesh write; reads nothing of it."""

import contextlib
import shutil
import subprocess
from typing import Final

from cli.failures import UsageFailure
from mesh.state import StateFolder

_LINES: Final = 50  # of each log


def show_logs(state: StateFolder, part: str | None, follow: bool) -> None:
    """Print the end of a part's log, or of all, and with follow what comes until Ctrl-C. Raises UsageFailure."""
    logs = {path.stem: path for path in sorted(state.logs.glob("*.log"))}
    if not logs:
        raise UsageFailure(f"there are no logs in {state.logs}")
    if part is not None and part not in logs:
        raise UsageFailure(f"there is no log of {part!r} in {state.logs}; there are {', '.join(logs)}")
    paths = logs.values() if part is None else [logs[part]]
    command = [shutil.which("tail") or "tail", "-n", str(_LINES), *(["-F"] if follow else []), *paths]
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(command, check=False)
