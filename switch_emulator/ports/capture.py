"""Capture of everything that crosses ports, in one pcap file."""

from __future__ import annotations

import os

from typing_extensions import override

from switchml.packets.pcap import PcapWriter
from switchml.switch_emulator.ports.interface import Frame, Ports, WrappedPorts


class CapturedPorts(WrappedPorts):
    """Writes frames of all ports, coming and going, to `path`; pcap has no place for the port's number, a trace has.

    Raises:
        PcapError: the file cannot be written.
    """

    def __init__(self, inner: Ports, path: str | os.PathLike[str]) -> None:
        super().__init__(inner)
        self._writer = PcapWriter(path)

    @override
    def receive(self, deadline: float) -> list[Frame]:
        frames = super().receive(deadline)
        for frame in frames:
            self._writer.write(frame.time, frame.data)
        return frames

    @override
    def send(self, port: int, data: bytes) -> None:
        self._writer.write(self.now(), data)
        super().send(port, data)

    @override
    def close(self) -> None:
        self._writer.close()
        super().close()
