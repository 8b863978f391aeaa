"""The interface of all ports, and of everything that is wrapped around them.

One object stands for all ports of a switch: frames carry the number of the port they came in by, and are sent to a number.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from typing_extensions import override

from switchml.closing import Closing
from switchml.errors import SwitchMLError

LONGEST_WAIT = 1.0


class PortsError(SwitchMLError):
    """Ports that cannot be opened or read."""


class Frame(NamedTuple):
    """An Ethernet frame, without preamble and checksum.

    Attributes:
        time: nanoseconds since 1970.
    """

    port: int
    data: bytes
    time: int


class Ports(Closing, ABC):
    """The ports of a switch. Used by one thread; a context manager."""

    @abstractmethod
    def receive(self, deadline: float) -> list[Frame]:
        """Frames that have come, in order. Waits for the first one, until `deadline` (time.monotonic()) at most."""

    @abstractmethod
    def send(self, port: int, data: bytes) -> None:
        """Send a frame. Never blocks: what a port cannot take is dropped and counted, as on a switch."""

    def send_all(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Send frames, each to its port; those of one port in order. Ports that send many at once cheaper override it."""
        for port, data in frames:
            self.send(port, data)

    @abstractmethod
    def fileno(self) -> int:
        """Readable when `receive` would return something."""

    @abstractmethod
    def close(self) -> None:
        """Idempotent."""

    def counters(self) -> Mapping[str, int]:
        """What happened to frames outside the pipeline; names as in protocol/counters.py."""
        return {}

    @property
    def exhausted(self) -> bool:
        """Whether nothing can come any more (the end of a file)."""
        return False

    def now(self) -> int:
        """The time of a frame that is sent now, in nanoseconds since 1970."""
        return time.time_ns()

    @property
    def longest_wait(self) -> float:
        """Seconds after which `receive` is to be called, whether or not there is something to read."""
        return LONGEST_WAIT


class WrappedPorts(Ports):
    """Ports that pass everything on to `inner`: what wrappers derive from."""

    def __init__(self, inner: Ports) -> None:
        self._inner = inner

    @override
    def receive(self, deadline: float) -> list[Frame]:
        return self._inner.receive(deadline)

    @override
    def send(self, port: int, data: bytes) -> None:
        self._inner.send(port, data)

    @override
    def fileno(self) -> int:
        return self._inner.fileno()

    @override
    def close(self) -> None:
        self._inner.close()

    @override
    def counters(self) -> Mapping[str, int]:
        return self._inner.counters()

    @property
    @override
    def exhausted(self) -> bool:
        return self._inner.exhausted

    @override
    def now(self) -> int:
        return self._inner.now()

    @property
    @override
    def longest_wait(self) -> float:
        return self._inner.longest_wait
