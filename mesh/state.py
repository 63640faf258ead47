"""Says where a mesh keeps its files while it runs, and keeps two commands from changing it at once."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.failure import MeshFailure

MARKER: Final = (
    "ZHINAO_MESH_STATE"  # environment variable that every process of a mesh carries; its value is the folder
)
SOCKET_PATH_LIMIT: Final = 95  # bytes; the kernel takes 107 and supervisor appends its process id first


def default_state_folder() -> Path:
    """zhinao-mesh under the user's state folder."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "zhinao-mesh"


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The files of one mesh; the path is absolute."""

    path: Path

    @property
    def runtime(self) -> Path:
        """Everything that `down` removes; supervisord and the parts run in this folder."""
        return self.path / "run"

    @property
    def plan(self) -> Path:
        """What runs."""
        return self.runtime / "plan.json"

    @property
    def restarts(self) -> Path:
        """How often each part was restarted; the watchdog writes it."""
        return self.runtime / "restarts.json"

    def read_restarts(self) -> dict[str, int]:
        """How often each part was restarted, by name; those that never were may be missing."""
        return json.loads(self.restarts.read_bytes()) if self.restarts.exists() else {}

    @property
    def supervisor_config(self) -> Path:
        """What supervisord reads."""
        return self.runtime / "supervisord.conf"

    @property
    def envoy_config(self) -> Path:
        """What Envoy reads at its start."""
        return self.runtime / "envoy.yaml"

    @property
    def envoy_base_id(self) -> int:
        """The number by which this mesh's Envoys, old and new, find each other; Envoy takes 28 bits."""
        return int(self.key, 16) % 2**28

    @property
    def endpoints(self) -> Path:
        """Folder that Envoy watches; one file of addresses per model."""
        return self.runtime / "eds"

    @property
    def logs(self) -> Path:
        """One log per part; they stay until the next `up`."""
        return self.path / "logs"

    @property
    def database(self) -> Path:
        """API keys and what they used; it stays."""
        return self.path / "keys.sqlite3"

    @property
    def key(self) -> str:
        """Short name that is this folder's own, for things that live outside it."""
        return hashlib.sha256(os.fsencode(self.path)).hexdigest()[:10]

    @property
    def shm_prefix(self) -> str:
        """How the names of all its files in /dev/shm begin."""
        return f"zhinao_{self.key}_"

    @property
    def socket(self) -> Path:
        """Where supervisord listens; in the temporary folder if this one's path is too long for a socket."""
        inside = self.runtime / "supervisor.sock"
        if len(os.fsencode(inside)) <= SOCKET_PATH_LIMIT:
            return inside
        return Path(tempfile.gettempdir()) / f"zhinao-{os.getuid()}-{self.key}" / "supervisor.sock"

    def make(self) -> None:
        """Create the folders, private ones, without old logs. Raises MeshFailure if the socket's is another user's."""
        if self.logs.exists():
            shutil.rmtree(self.logs)
        for folder in (self.path, self.runtime, self.endpoints, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        if self.socket.parent.stat().st_uid != os.getuid():
            raise MeshFailure(f"{self.socket.parent} belongs to another user; give a shorter --state")

    def clear(self) -> None:
        """Remove everything but the logs."""
        for folder in (self.runtime, self.socket.parent):
            shutil.rmtree(folder, ignore_errors=not folder.exists())

    def claim(self) -> None:
        """Make the folder a mesh's. Raises MeshFailure if it is a file, or holds somebody else's files."""
        if self.path.is_file():
            raise MeshFailure(f"{self.path} is a file; give --state a new or an empty folder")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.path.iterdir()) and not (self.path / "lock").is_file():
            raise MeshFailure(f"{self.path} holds files that are no mesh's; give --state a new or an empty folder")
        (self.path / "lock").touch()

    @contextmanager
    def lock(self, *, wait: bool = False, make: bool = False) -> Generator[None]:
        """Hold this mesh for one command. Raises MeshFailure if another one holds it, unless told to wait for that.

        make: the folder, if it is not there. Also refuses a folder of someone else's files: `up` and `down` remove
        folders called `run` and `logs` in it.
        """
        if not make and not self.path.exists():
            raise MeshFailure(f"there is no mesh: {self.path} does not exist")
        self.claim()
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise MeshFailure(
                    f"another zhinao command, or the autoscaler, is at work on {self.path}; wait for it"
                ) from None
            yield
