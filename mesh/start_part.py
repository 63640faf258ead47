"""Becomes one part of the mesh (`python -m mesh.start_part NAME`): cleans up after its predecessor, then runs it.

Supervisor starts every part through this, so that its configuration holds nothing but names and nothing needs quoting.
"""

import os
import sys
from pathlib import Path

from mesh.plan import load_plan
from mesh.state import MARKER, StateFolder
from mesh.triton import remove_shared_memory


def main() -> None:
    """Replace this process by the part; the process id stays, so supervisor sees no difference."""
    state = StateFolder(Path(os.environ[MARKER]))
    plan = load_plan(state.plan)
    if plan is None:
        sys.exit(f"no plan in {state.path}")
    part = plan.part(sys.argv[1])
    if part.shm_prefix is not None:
        remove_shared_memory(part.shm_prefix)
    os.execvpe(part.command[0], part.command, {**os.environ, **part.environment})  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main()
