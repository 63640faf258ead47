"""Becomes one worker (`python -m mesh.worker_container KIND`): a Triton with one model, open to the pods around it.

The same server, arguments and layout as in the local mesh; what differs are addresses and the time to leave.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from mesh import triton

PORTS: Final = (8000, 8001, 8002)  # Triton's own: HTTP, gRPC, metrics
EXIT_TIMEOUT_S: Final = 600  # as long as a request may take at a gateway; a pod's grace period ends it sooner
_EVERY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - who may reach a pod, NetworkPolicies say


def main() -> None:
    """Lay the server out in the temporary folder, for the rest of a container is read-only, and become it."""
    (kind,) = sys.argv[1:]
    folder = Path(tempfile.mkdtemp(prefix="triton-"))
    triton.lay_out(folder, triton.OUR_MODELS)
    os.chdir(folder)
    command = triton.command(kind, PORTS, "zhinao_", host=_EVERY_ADDRESS, exit_timeout_s=EXIT_TIMEOUT_S)
    os.execvpe(command[0], command, {**os.environ, **triton.environment()})  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main()
