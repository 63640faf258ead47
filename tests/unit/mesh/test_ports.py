"""Which ports a mesh takes."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.failure import MeshFailure
from mesh.ports import BLOCK_LEN, FIRST_PORT, blocks, check_edge, choose_block, is_free

EPHEMERAL = 32_768


@given(st.integers(1, 65_535))
def test_blocks_cover_each_port_once_and_stay_below_the_ports_the_kernel_hands_out(edge: int) -> None:
    starts = list(blocks(edge))

    assert len(starts) == len(set(starts))
    assert all((start - FIRST_PORT) % BLOCK_LEN == 0 for start in starts)
    assert min(starts) >= FIRST_PORT
    assert max(starts) + BLOCK_LEN <= EPHEMERAL


@given(st.integers(1, 65_534))
def test_neighbouring_edges_get_different_blocks(edge: int) -> None:
    assert next(blocks(edge)) != next(blocks(edge + 1))


def test_the_next_block_is_taken_when_a_port_of_the_first_is_in_use() -> None:
    edge = 20_000 + os.getpid() % 40_000
    first = choose_block(edge, 4)

    with socket.create_server(("127.0.0.1", first + 2)):
        second = choose_block(edge, 4)

    assert second != first
    assert all(is_free("127.0.0.1", port) for port in range(second, second + 4))


def test_a_mesh_too_big_for_a_block_names_both_numbers() -> None:
    with pytest.raises(MeshFailure, match=rf"{BLOCK_LEN + 1} ports.*{BLOCK_LEN}"):
        choose_block(8360, BLOCK_LEN + 1)


def test_a_taken_edge_port_names_the_port_the_process_and_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(MeshFailure, match=rf"port {port} .*process {os.getpid()}.*--port {port + 1}"):
            check_edge("127.0.0.1", port)


def test_an_address_that_is_not_this_machines_is_not_called_taken() -> None:
    with pytest.raises(MeshFailure, match=r"port 8360 of 192\.0\.2\.1: Cannot assign requested address"):
        check_edge("192.0.2.1", 8360)


def test_a_free_edge_port_passes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    check_edge("127.0.0.1", port)
