"""Packets into and out of a BMv2 that runs with --use-files: a named pipe in, a pcap file out, for each port.

BMv2 takes the earliest packet of all ports, by the files' times, and then waits for that port's next one or its end. So
times that grow over all ports give the script's order, once every pipe has been written and closed.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import struct
import termios
import time
from array import array
from collections.abc import Callable, Collection
from pathlib import Path

from switchml.stf.bmv2_cli import Bmv2Error

_MAGIC = 0xA1B2C3D4
_SNAP_LENGTH = 262144
_HEADER = struct.Struct("=IHHiIII")
_RECORD = struct.Struct("=IIII")
_POLL = 0.01


class PacketFiles:
    """The files of the given ports in `folder`. `check_alive` raises `Bmv2Error` once BMv2 has ended."""

    def __init__(self, folder: Path, ports: list[int], check_alive: Callable[[], None]) -> None:
        self._folder, self._ports, self._check_alive = folder, ports, check_alive
        self._pipes: dict[int, int] = {}
        self._waiting: dict[int, bytearray] = {port: bytearray() for port in ports}
        self._time = int(time.time() * 1e6)
        for port in ports:
            os.mkfifo(self._path(port, "in"))

    def _path(self, port: int, direction: str) -> Path:
        return self._folder / f"port{port}_{direction}.pcap"

    def interfaces(self) -> list[str]:
        """Arguments that name the files to simple_switch."""
        return [word for port in self._ports for word in ("-i", f"{port}@port{port}")]

    def open(self, silent: set[int], deadline: float) -> None:
        """Open the pipes as BMv2 does, lowest port first; those of `silent` ports, which send nothing, are closed at once.

        Raises:
            Bmv2Error: BMv2 ended, or did not open them in time.
        """
        for port in self._ports:
            self._pipes[port] = self._open(port, deadline)
            os.write(self._pipes[port], _HEADER.pack(_MAGIC, 2, 4, 0, 0, _SNAP_LENGTH, 1))
        for port in silent:
            os.close(self._pipes.pop(port))

    def _open(self, port: int, deadline: float) -> int:
        while True:
            try:
                return os.open(self._path(port, "in"), os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                self._check(deadline, "open its packet files")
                time.sleep(_POLL)

    def _check(self, deadline: float, what: str) -> None:
        self._check_alive()
        if time.monotonic() > deadline:
            raise Bmv2Error(f"BMv2 did not {what} in time")

    def put(self, port: int, frame: bytes) -> int:
        """Queue a frame; its time in the file, microseconds."""
        self._time += 1
        seconds, fraction = divmod(self._time, 1_000_000)
        self._waiting[port] += _RECORD.pack(seconds, fraction, len(frame), len(frame)) + frame
        return self._time

    def flush(self, deadline: float, ended: Collection[int]) -> None:
        """Hand over what is queued, and close the pipes of ports that have `ended`.

        Raises:
            Bmv2Error: BMv2 ended, or did not take it in time.
        """
        # All of them end: what BMv2 has not read yet it has not worked on.
        last = self._pipes.keys() <= set(ended)
        with selectors.DefaultSelector() as selector:
            for port, pipe in list(self._pipes.items()):
                if self._waiting[port]:
                    selector.register(pipe, selectors.EVENT_WRITE, port)
                elif port in ended:
                    os.close(self._pipes.pop(port))
            while selector.get_map():
                for key, _ in selector.select(_POLL):
                    waiting = self._waiting[key.data]
                    try:
                        del waiting[: os.write(key.fd, waiting)]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError as error:
                        raise Bmv2Error("BMv2 ended while packets were sent to it") from error
                    if not waiting:
                        selector.unregister(key.fd)
                        if key.data in ended and not last:
                            os.close(self._pipes.pop(key.data))
                self._check(deadline, "take the packets")
        # It reads one file after the other, so each is closed as soon as it is read.
        while last and self._pipes:
            for port, pipe in list(self._pipes.items()):
                if not _unread(pipe):
                    os.close(self._pipes.pop(port))
            self._check(deadline, "read the packets")
            time.sleep(_POLL)

    def received(self) -> dict[int, list[tuple[int, bytes]]]:
        """What has left so far, by port: (microseconds, frame)."""
        return {port: _records(self._path(port, "out")) for port in self._ports}

    def close(self) -> None:
        """Close the pipes."""
        for pipe in self._pipes.values():
            os.close(pipe)
        self._pipes.clear()


def _unread(pipe: int) -> int:
    """Bytes that wait in a pipe."""
    count = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def _records(path: Path) -> list[tuple[int, bytes]]:
    """The whole records of a pcap file that may still grow. BMv2 writes no link type, so it is not looked at."""
    data = path.read_bytes() if path.exists() else b""
    found = []
    at = _HEADER.size
    while at + _RECORD.size <= len(data):
        seconds, fraction, length, _ = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            break
        found.append((seconds * 1_000_000 + fraction, data[at : at + length]))
        at += length
    return found
