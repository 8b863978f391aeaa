"""Ports in memory."""

from __future__ import annotations

import os
import select
import time
from collections import deque

from typing_extensions import override

from switchml.switch_emulator.ports.interface import Frame, Ports


class MemoryPorts(Ports):
    """`put` lets a frame come in, from any thread; `sent` holds what went out."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self._coming: deque[Frame] = deque()
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def put(self, port: int, data: bytes, when: int | None = None) -> None:
        """Let a frame come in.

        Args:
            port: by which it comes.
            data: the frame.
            when: nanoseconds since 1970; None = now.
        """
        self._coming.append(Frame(port, data, time.time_ns() if when is None else when))
        os.eventfd_write(self._ready, 1)

    @override
    def receive(self, deadline: float) -> list[Frame]:
        if not self._coming:
            select.select([self._ready], [], [], max(0.0, deadline - time.monotonic()))
        try:
            os.eventfd_read(self._ready)
        except BlockingIOError:
            return []
        return [self._coming.popleft() for _ in range(len(self._coming))]

    @override
    def send(self, port: int, data: bytes) -> None:
        self.sent.append(Frame(port, data, time.time_ns()))

    @override
    def fileno(self) -> int:
        return self._ready

    @override
    def close(self) -> None:
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1
