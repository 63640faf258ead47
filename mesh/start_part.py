"""Becomes one part of the mesh (`python -m mesh.start_part NAME`): cleans up after its predecessor, then runs it.

Supervisor starts every part through this, so that its configuration holds nothing but names and nothing needs quoting.
"""

import contextlib
import os
import sys
from pathlib import Path

import psutil

from mesh.plan import load_plan
from mesh.state import MARKER, StateFolder
from mesh.teardown import mesh_processes
from mesh.triton import remove_shared_memory


def main() -> None:
    """Replace this process by the part; the process id stays, so supervisor sees no difference."""
    state = StateFolder(Path(os.environ[MARKER]))
    plan = load_plan(state.plan)
    if plan is None:
        sys.exit(f"no plan in {state.path}")
    part = plan.part(sys.argv[1])
    if part.shm_prefix is not None:
        _kill_orphans(state, part.shm_prefix)
        remove_shared_memory(part.shm_prefix)
    os.execvpe(part.command[0], part.command, {**os.environ, **part.environment})  # noqa: S606 - no shell is meant


def _kill_orphans(state: StateFolder, shm_prefix: str) -> None:
    """End the stub of a Triton that was killed in the middle of an answer: it lives on, weights and all."""
    for process in mesh_processes(state):
        with contextlib.suppress(psutil.Error):
            if any(shm_prefix in word for word in process.cmdline()):
                process.kill()


if __name__ == "__main__":
    main()
