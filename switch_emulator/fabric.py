"""The switch's shared memory and the server that hands it out: a memfd and an eventfd, sent over an abstract Unix socket.

Abstract sockets belong to a network namespace, so who can connect is on the same host as far as the network
goes; nothing is left in the file system, whatever happens to the switch.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.control.ranges import RangeAllocator
from switchml.link.ring import PAGE

_BYTES = 1 << 30  # sparse: only what is used takes memory
_ANSWER_SECONDS = 2.0


class Region(NamedTuple):
    """A worker's part of the shared memory, as sent to it."""

    offset: int
    length: int
    worker: int
    copies: int  # see link/ring.py


class Fabric:
    """Shared memory of a switch, in regions of whole pages.

    Attributes:
        memory: uint8, all of it; the first page is the switch's own (link/ring.py).
        fd: of the memory.
        doorbell: eventfd that wakes the switch.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("switchml", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, _BYTES)
        self._map = mmap.mmap(self.fd, _BYTES)
        self.memory: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._free = RangeAllocator(_BYTES // PAGE - 1)

    def allocate(self, length: int) -> int | None:
        """Byte offset of a zeroed region, or None when there is no room."""
        first = self._free.allocate(-(-length // PAGE))
        return None if first is None else (first + 1) * PAGE

    def release(self, offset: int, length: int) -> None:
        """Give a region back; its memory returns to the system."""
        self._map.madvise(mmap.MADV_REMOVE, offset, length)
        self._free.release(offset // PAGE - 1)

    def close(self) -> None:
        """Free it."""
        os.close(self.doorbell)
        os.close(self.fd)


class MemoryServer:
    """Listens on the abstract socket and hands the memory to workers that show their ticket, of this user and of root.

    Args:
        fabric: what is handed out.
        attach: the region of a ticket's worker, or None.
    """

    def __init__(self, fabric: Fabric, attach: Callable[[str], Region | None]) -> None:
        self._fabric = fabric
        self._attach = attach
        self.name = f"switchml-{secrets.token_hex(12)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"\0{self.name}")
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, name="switchml-memory-server", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(_ANSWER_SECONDS)
                try:
                    self._answer(connection)
                except OSError:
                    continue

    def _answer(self, connection: socket.socket) -> None:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        ticket = connection.recv(256).decode(errors="replace")
        if struct.unpack("3i", credentials)[1] not in (os.geteuid(), 0):
            return  # no word: who asks whether it may come in then knows
        region = self._attach(ticket)
        if region is None:
            connection.send(b"{}")
            return
        socket.send_fds(
            connection, [json.dumps(region._asdict()).encode()], [self._fabric.fd, self._fabric.doorbell]
        )

    def close(self) -> None:
        """End its thread."""
        # shutdown wakes the accept; close alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_ANSWER_SECONDS + 1)
