"""Decides which ports a mesh uses and who is in the way; opens none for longer than a look."""

import errno
import socket
from collections.abc import Iterator
from typing import Final

import psutil

from mesh.failure import MeshFailure

FIRST_PORT: Final = 10_000
BLOCK_LEN: Final = 128
NUM_BLOCKS: Final = 171  # the last one ends at 31,887: below the ports the kernel hands out itself (32,768 on)


def blocks(edge_port: int) -> Iterator[int]:
    """First ports of all blocks; the edge port's own comes first, so that neighbours get different ones."""
    for step in range(NUM_BLOCKS):
        yield FIRST_PORT + (edge_port + step) % NUM_BLOCKS * BLOCK_LEN


def is_free(host: str, port: int) -> bool:
    """True if a server could listen there now, False if one does. Raises OSError if none ever could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection in TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def choose_block(edge_port: int, num_ports: int) -> int:
    """First port of a block on loopback whose first num_ports ports are free. Raises MeshFailure if there is none."""
    if num_ports > BLOCK_LEN:
        raise MeshFailure(f"this mesh needs {num_ports} ports, and a mesh has {BLOCK_LEN}; start fewer workers")
    for first in blocks(edge_port):
        if all(is_free("127.0.0.1", port) for port in range(first, first + num_ports) if port != edge_port):
            return first
    raise MeshFailure(f"no {num_ports} free ports in a row from {FIRST_PORT} on")


def check_edge(host: str, port: int) -> None:
    """Raise MeshFailure, naming what is in the way, if the edge cannot listen there."""
    try:
        if is_free(host, port):
            return
    except OSError as error:
        raise MeshFailure(f"cannot listen on port {port} of {host}: {error.strerror}") from error
    raise MeshFailure(
        f"port {port} on {host} is taken by {holder(port)}; stop it, or choose another: --port {port + 1}"
    )


def holder(port: int) -> str:
    """Name and id of the process that listens on a port, as far as this user may see it."""
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if listens and connection.pid:
            return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "a process this user cannot see"
