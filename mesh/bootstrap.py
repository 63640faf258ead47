"""Brings a bare machine to a working .venv with the demo weights; standard library only, run by the system's Python."""

import hashlib
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from mesh.cache import demo_checkpoint
from mesh.interpreter import shared_library

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
EXTRAS = "gateway,worker,demo,dev"
STAMP = VENV / "installed.sha256"
LOG = VENV / "install.log"
TAIL_LINES = 20


class SetupError(Exception):
    """Something is missing or failed; the message says what to do."""


def say(text: str) -> None:
    """Tell the person at the terminal, at once even through a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def missing_piece(version: tuple[int, int], has_library: bool, has_venv: bool) -> str | None:
    """The first thing this Python lacks, with the line that installs it; None if it has all."""
    if version != (3, 11):
        return (
            f"Python 3.11 is needed and this is Python {version[0]}.{version[1]}. Debian: "
            "apt-get install python3.11 libpython3.11 python3.11-venv; then: make PYTHON=python3.11"
        )
    if not has_library:
        return (
            "Triton needs Python's shared library (libpython3.11.so.1.0) and this Python has none. Debian: "
            "apt-get install libpython3.11; pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force 3.11"
        )
    if not has_venv:
        return "Python's venv and ensurepip modules are missing. Debian: apt-get install python3.11-venv"
    return None


def check_python() -> None:
    """Raise SetupError if this interpreter cannot carry the mesh."""
    has_venv = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    missing = missing_piece(sys.version_info[:2], shared_library() is not None, has_venv)
    if missing:
        raise SetupError(missing)


def fingerprint() -> str:
    """What the installed packages depend on: the pins, the extras and the interpreter."""
    text = (ROOT / "pyproject.toml").read_bytes() + f"{EXTRAS} {sys.version} {sys.prefix}".encode()
    return hashlib.sha256(text).hexdigest()


def is_installed() -> bool:
    """True if the last complete installation was for exactly these pins."""
    return STAMP.exists() and STAMP.read_text() == fingerprint()


def run_logged(title: str, command: list[str]) -> None:
    """Run a long command with its output in the log file and a sign of life on the screen."""
    say(f"{title} (details: {LOG.relative_to(ROOT)})")
    start_s, shown_s = time.monotonic(), 0.0
    with LOG.open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.2)
            elapsed_s = time.monotonic() - start_s
            if elapsed_s - shown_s >= 15:
                shown_s = elapsed_s
                say(f"  … {elapsed_s:.0f} s: {last_lines(1)[:90]}")
    if process.returncode != 0:
        raise SetupError(f"{title}: failed with exit code {process.returncode}. The end of {LOG}:\n{last_lines()}")


def last_lines(count: int = TAIL_LINES) -> str:
    """The end of the installation log."""
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-count:])


def install() -> None:
    """Create .venv if it is missing or half made, then install the project and its pins into it."""
    if not (VENV / "bin" / "python3.11").exists() or not (VENV / "bin" / "pip").exists():
        say("creating .venv")
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    LOG.unlink(missing_ok=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "off", "--no-input"]
    run_logged("installing the project and its pinned packages, some minutes", [*pip, "-e", f".[{EXTRAS}]"])
    STAMP.write_text(fingerprint())


def fetch_demo_weights() -> None:
    """Make the demo checkpoints in the cache, unless they are there; their maker shows its own progress."""
    for kind in ("chat", "embed"):  # reranking shares the chat model's
        target = demo_checkpoint(kind)
        if target.exists():
            continue
        say(f"fetching the demo weights into {target}")
        command = [VENV / "bin" / "python", "-m", "modelkit.demo", kind, target]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code != 0:
            raise SetupError(f"fetching the demo weights failed with exit code {code}; see above")


def build_native() -> None:
    """Compile the CPU fast path for this machine, unless that is done; without it plain torch serves, slowly."""
    command = [VENV / "bin" / "python", "-m", "modelkit.native.build"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        say("setup: the CPU fast path could not be compiled (see above): models will run on plain torch, slowly")


def main() -> int:
    """Set everything up; safe to run again, quick if nothing is to do."""
    try:
        check_python()
        if not is_installed():
            install()
        build_native()
        fetch_demo_weights()
    except (SetupError, subprocess.CalledProcessError, OSError) as error:
        say(f"setup: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
