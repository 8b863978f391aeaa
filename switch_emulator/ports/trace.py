"""A line for every frame that crosses ports."""

from __future__ import annotations

import time
from collections.abc import Callable

from typing_extensions import override

from switchml.packets.summary import summary
from switchml.switch_emulator.ports.interface import Frame, Ports, WrappedPorts

_SECOND = 1_000_000_000


class TracedPorts(WrappedPorts):
    """Hands each line to `write`: time of day (UTC), port and direction, and what the frame is."""

    def __init__(self, inner: Ports, write: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._write = write

    @override
    def receive(self, deadline: float) -> list[Frame]:
        frames = super().receive(deadline)
        for frame in frames:
            self._line(frame.time, frame.port, "->", frame.data)
        return frames

    @override
    def send(self, port: int, data: bytes) -> None:
        self._line(self.now(), port, "<-", data)
        super().send(port, data)

    def _line(self, when: int, port: int, arrow: str, data: bytes) -> None:
        seconds, rest = divmod(when, _SECOND)
        clock = time.strftime("%H:%M:%S", time.gmtime(seconds))
        self._write(f"{clock}.{rest // 1000:06d} port {port:<3} {arrow} {summary(data)}")
