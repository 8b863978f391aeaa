"""The door to the shared memory: who is let in, and who cannot keep others out."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from switchml.switch_emulator.fabric import Fabric, Handout, JobMemory, MemoryServer, Region

REGION = Region(4096, 8192, 0, 1)
Attach = Callable[[str], Handout | None]
PATIENCE = 30.0  # seconds; an answer takes microseconds


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    made = Fabric()
    yield made
    made.close()


@pytest.fixture
def attach(fabric: Fabric) -> Attach:
    handout = Handout(REGION, (fabric.fd, fabric.doorbell))
    return lambda ticket: handout if ticket == "mine" else None


def knock(server: MemoryServer) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(PATIENCE)
    sock.connect(f"\0{server.name}")
    return sock


def enter(server: MemoryServer) -> int:
    """Descriptors that are handed out."""
    with knock(server) as sock:
        sock.send(b"mine")
        _, descriptors, _, _ = socket.recv_fds(sock, 4096, 2)
        for descriptor in descriptors:
            os.close(descriptor)
        return len(descriptors)


def test_idle_connections_keep_nobody_out(attach: Attach) -> None:
    server = MemoryServer(attach)
    try:
        # More than it lets wait: the oldest of them goes.
        idle = [knock(server) for _ in range(100)]
        assert enter(server) == 2
        assert idle[0].recv(64) == b""
        for sock in idle:
            sock.close()
    finally:
        server.close()


def test_a_foreign_user_is_cut_off_without_a_word(attach: Attach) -> None:
    server = MemoryServer(attach, users=[os.geteuid() + 1])
    try:
        with knock(server) as sock:
            assert sock.recv(64) == b""
    finally:
        server.close()


def test_an_idle_connection_ends_by_itself(attach: Attach) -> None:
    server = MemoryServer(attach)
    try:
        with knock(server) as sock:
            assert sock.recv(64) == b""
    finally:
        server.close()


def test_a_wrong_ticket_gets_no_memory(attach: Attach) -> None:
    server = MemoryServer(attach)
    try:
        with knock(server) as sock:
            sock.send(b"?")
            assert sock.recv(64) == b"{}"
    finally:
        server.close()


def test_nobody_changes_the_length_of_a_jobs_memory() -> None:
    memory = JobMemory(8192)
    try:
        assert memory.memory.size == 8192
        assert not memory.memory.any()
        for length in (4096, 16384):
            with pytest.raises(PermissionError):
                os.ftruncate(memory.fd, length)
    finally:
        memory.close()
