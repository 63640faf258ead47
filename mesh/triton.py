"""Knows how the real Triton is started from its wheel and what it leaves behind; knows nothing of what it serves."""

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mesh.failure import MeshFailure
from mesh.interpreter import shared_library

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - not a temporary file of ours: where the kernel keeps them
EXIT_TIMEOUT_S: Final = 20
LOOPBACK: Final = "127.0.0.1"
SERVER_FOLDER: Final = "TRITON_FOLDER"  # variable that names another server than the wheel's; a container image sets it
BACKENDS: Final = "backends"
REPOSITORY: Final = "model_repository"
OUR_MODELS: Final = Path(__file__).resolve().parent.parent / "model_repository"


def package_folder(package: str, wheel: str) -> Path:
    """Where an installed package lies, without importing it. Raises MeshFailure naming the wheel if it is missing."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MeshFailure(f"{wheel} is not installed; run: make setup")
    return Path(found.submodule_search_locations[0])


def command(
    model: str,
    ports: tuple[int, int, int],
    shm_prefix: str,
    *,
    host: str = LOOPBACK,
    exit_timeout_s: int = EXIT_TIMEOUT_S,
) -> tuple[str, ...]:
    """Command line of one server with one model of the repository, run in a folder that lay_out prepared.

    The paths are relative because Triton hands them to a shell unquoted. ports: HTTP, always on loopback, then gRPC
    and metrics on `host`. exit_timeout_s: how long running requests may take once it was told to stop.
    """
    http, grpc, metrics = ports
    return (
        str(_server_folder() / "bin" / "tritonserver"),
        f"--model-repository={REPOSITORY}",
        f"--backend-directory={BACKENDS}",
        "--model-control-mode=explicit",  # lets an operator unload and load without a restart
        f"--load-model={model}",
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--http-address={LOOPBACK}",
        f"--http-port={http}",
        f"--grpc-address={host}",
        f"--grpc-port={grpc}",
        "--grpc-header-forward-pattern=(traceparent|x-request-id)",
        "--grpc-http2-max-ping-strikes=0",  # Envoy's keepalive is no attack
        f"--metrics-address={host}",
        f"--metrics-port={metrics}",
        "--allow-gpu-metrics=false",
        f"--exit-timeout-secs={exit_timeout_s}",
        "--pinned-memory-pool-byte-size=0",  # no tensor of ours passes through Triton itself
        "--log-info=false",
    )


def environment() -> Mapping[str, str]:
    """What the server's Python stub needs around it.

    The stub embeds an isolated interpreter: it ignores PYTHONPATH and finds a venv only through the first python3 on
    PATH, and it needs the libpython of exactly that Python's standard library.
    """
    library = shared_library()
    if library is None:
        raise MeshFailure(
            "this Python has no shared library, which Triton needs; Debian: apt-get install libpython3.11"
        )
    if SERVER_FOLDER in os.environ:
        server_libraries = os.environ.get("LD_LIBRARY_PATH", "")  # the image's, CUDA's among them
    else:
        server_libraries = str(package_folder("pytriton", "nvidia-pytriton").parent / "nvidia_pytriton.libs")
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": f"{library.parent}{os.pathsep}{server_libraries}",
    }


def lay_out(folder: Path, repository: Path) -> None:
    """Put the models and the Python backend into the folder that a server is run in.

    Triton wants the backend's library, its utilities and this Python's stub side by side. The stub is a copy: Triton
    sets the mode of the one it runs, which only the file's owner may, and with which nobody else could use it.
    """
    server = _server_folder()
    python = folder / BACKENDS / "python"
    python.mkdir(parents=True, exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    (folder / REPOSITORY).symlink_to(repository)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (python / name).symlink_to(server / "backends" / "python" / name)
    shutil.copyfile(stub, python / stub.name)


def load_failure(log: str) -> str | None:
    """Why the model could not be loaded, in the worker's own words; None if the log does not say.

    Triton repeats the exception's text after its own, up to the traceback.
    """
    found = re.findall(r"is at UNAVAILABLE state: \w+: (?:TritonModelException: )?(.+)", log)
    return found[-1] if found else None


def remove_shared_memory(prefix: str) -> int:
    """Remove the regions that a killed server left, and say how many; a server that runs keeps none of that name."""
    stale = list(SHARED_MEMORY.glob(f"{prefix}*"))
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def _server_folder() -> Path:
    folder = os.environ.get(SERVER_FOLDER)
    return Path(folder) if folder else package_folder("pytriton", "nvidia-pytriton") / "tritonserver"
