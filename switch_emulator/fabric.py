"""The switch's shared memory and the server that hands it out: memfds and an eventfd, sent over an abstract Unix socket.

Abstract sockets belong to a network namespace, so who can connect is on the same host as far as the network
goes; nothing is left in the file system, whatever happens to the switch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.control.ranges import RangeAllocator
from switchml.link.ring import PAGE

_BYTES = 1 << 30  # sparse: only what is used takes memory
_ANSWER_SECONDS = 2.0
_BACKLOG = 1024  # a foreign user's connections are refused one by one
_MOST_WAITING = 64
_OUT_OF_DESCRIPTORS = 0.05


class Region(NamedTuple):
    """The job's rings in the shared memory, as told to a worker."""

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


class Place(NamedTuple):
    """A job's memory with its slots, as told to a worker."""

    length: int
    worker: int
    format: int  # see aggregation/shared_slots.py


class Handout(NamedTuple):
    """What a worker gets.

    Attributes:
        told: of the memory.
        descriptors: the memory's, and that of the doorbell where there is one.
    """

    told: Region | Place
    descriptors: tuple[int, ...]


class JobMemory:
    """Memory of one job alone, zeroed. Nobody can change its length, so whoever maps it can rely on that.

    What a worker still writes after `close` reaches nobody: no other job has ever this memory.

    Attributes:
        fd: of the memory.
        memory: uint8, all of it.
    """

    def __init__(self, length: int) -> None:
        self.fd = os.memfd_create("switchml-job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, length)
            fcntl.fcntl(
                self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            )
            self.memory: npt.NDArray[np.uint8] = np.frombuffer(mmap.mmap(self.fd, length), np.uint8)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Let it go; it is freed when nobody maps it any more."""
        os.close(self.fd)


class MemoryServer:
    """Listens on the abstract socket and hands the memory to workers that show their ticket, of this user and of root.

    Any user of the network namespace may connect. Only root's and the switch's own are listened to, each for `_ANSWER_SECONDS`;
    others are cut off at once, and nobody waits for anybody.

    Args:
        attach: what the ticket's worker gets, or None.
        users: whom it listens to; None = this process's user and root.
    """

    def __init__(
        self, attach: Callable[[str], Handout | None], *, users: Sequence[int] | None = None
    ) -> None:
        self._attach = attach
        self._users = (os.geteuid(), 0) if users is None else tuple(users)
        self.name = f"switchml-{secrets.token_hex(12)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"\0{self.name}")
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._waiting: OrderedDict[socket.socket, float] = OrderedDict()  # until when; the oldest first
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="switchml-memory-server", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._closing.is_set():
                due = next(iter(self._waiting.values()), None)
                patience = None if due is None else max(0.0, due - time.monotonic())
                for key, _ in selector.select(patience):
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._waiting:
                        with contextlib.suppress(OSError):
                            self._answer(key.fileobj)
                        self._drop(selector, key.fileobj)
                self._drop_late(selector)
            for connection in list(self._waiting):
                self._drop(selector, connection)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                self._closing.wait(_OUT_OF_DESCRIPTORS)  # others' doing, and it passes
            return
        if _user_of(connection) not in self._users:
            connection.close()
            return
        connection.setblocking(False)
        if len(self._waiting) >= _MOST_WAITING:
            self._drop(selector, next(iter(self._waiting)))
        self._waiting[connection] = time.monotonic() + _ANSWER_SECONDS
        selector.register(connection, selectors.EVENT_READ)

    def _drop_late(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        while self._waiting and next(iter(self._waiting.values())) <= now:
            self._drop(selector, next(iter(self._waiting)))

    def _drop(self, selector: selectors.BaseSelector, connection: socket.socket) -> None:
        del self._waiting[connection]
        selector.unregister(connection)
        connection.close()

    def _answer(self, connection: socket.socket) -> None:
        handout = self._attach(connection.recv(256).decode(errors="replace"))
        if handout is None:
            connection.send(b"{}")
            return
        socket.send_fds(connection, [json.dumps(handout.told._asdict()).encode()], handout.descriptors)

    def close(self) -> None:
        """End its thread."""
        self._closing.set()
        # shutdown wakes the thread; close alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(_ANSWER_SECONDS + 1)
        self._listener.close()


def _user_of(connection: socket.socket) -> int:
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", credentials)[1])
