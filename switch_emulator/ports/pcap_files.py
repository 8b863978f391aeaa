"""pcap files as the ports of a switch: each port reads NAME_in.pcap, where there is one, and writes NAME_out.pcap."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from typing_extensions import override

from switchml.packets.pcap import PcapWriter, Record, read_pcap
from switchml.switch_emulator.ports.interface import Frame, Ports, PortsError


class PcapFilePorts(Ports):
    """Files as ports. Frames of all ports come in the order of their times, as fast as they are taken; what leaves is stamped
    with the time of the frame that came in last.

    Args:
        files: NAME (a path without `_in.pcap`) by port number.

    Raises:
        PortsError: there is no file to read.
        PcapError: one cannot be read or written.
    """

    def __init__(self, files: Mapping[int, str | os.PathLike[str]]) -> None:
        sources = {port: Path(f"{os.fspath(name)}_in.pcap") for port, name in files.items()}
        if not any(path.exists() for path in sources.values()):
            raise PortsError(f"no frames to read: there is none of {', '.join(map(str, sources.values()))}")
        self._writers: dict[int, PcapWriter] = {}
        self._coming: Iterator[Frame] = iter(())
        self._ended = False
        self._now = time.time_ns()
        self._ready = os.eventfd(1, os.EFD_CLOEXEC)
        try:
            for port, name in files.items():
                self._writers[port] = PcapWriter(f"{os.fspath(name)}_out.pcap")
            self._coming = heapq.merge(
                *(_frames(port, read_pcap(path)) for port, path in sources.items() if path.exists()),
                key=lambda frame: frame.time,
            )
        except BaseException:
            self.close()
            raise

    @override
    def receive(self, deadline: float) -> list[Frame]:
        # One at a time: the answers to a frame carry its time.
        for frame in self._coming:
            self._now = frame.time
            return [frame]
        self._ended = True
        return []

    @property
    @override
    def exhausted(self) -> bool:
        return self._ended

    @override
    def send(self, port: int, data: bytes) -> None:
        writer = self._writers.get(port)
        if writer is not None:
            writer.write(self._now, data)

    @override
    def now(self) -> int:
        return self._now

    @override
    def fileno(self) -> int:
        return self._ready

    @override
    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1


def _frames(port: int, records: Iterator[Record]) -> Iterator[Frame]:
    return (Frame(port, record.data, record.time) for record in records)
