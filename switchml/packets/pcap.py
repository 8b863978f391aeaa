"""Classic pcap files (draft-ietf-opsawg-pcap): what tcpdump, Wireshark and scapy read and write."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from switchml.closing import Closing
from switchml.errors import SwitchMLError

_MICROSECONDS = 0xA1B2C3D4
_NANOSECONDS = 0xA1B23C4D
_ETHERNET = 1
_SNAP_LENGTH = 262144
_FILE_HEADER = "IHHiIII"
_RECORD_HEADER = "IIII"
_SECOND = 1_000_000_000


class PcapError(SwitchMLError):
    """A file that cannot be read or written, or is no pcap file."""


class Record(NamedTuple):
    """A frame in a file.

    Attributes:
        time: nanoseconds since 1970.
    """

    time: int
    data: bytes


class PcapWriter(Closing):
    """Writes a file record by record; each is in the file before the call returns. A context manager.

    Raises:
        PcapError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise PcapError(f"cannot write {os.fspath(path)}: {error.strerror}") from error
        try:
            self._put(struct.pack("=" + _FILE_HEADER, _NANOSECONDS, 2, 4, 0, 0, _SNAP_LENGTH, _ETHERNET))
        except PcapError:
            self._file.close()
            raise

    def write(self, time: int, data: bytes) -> None:
        """Add a frame; `time` in nanoseconds since 1970.

        Raises:
            PcapError: the file takes no more.
        """
        header = struct.pack("=" + _RECORD_HEADER, *divmod(time, _SECOND), len(data), len(data))
        self._put(header + data)

    def _put(self, data: bytes) -> None:
        try:
            while data:  # an almost full disk takes a part
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise PcapError(f"cannot write {self._file.name}: {error.strerror}") from error

    def fileno(self) -> int:
        """For who writes records by himself."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_pcap(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The frames of a file, either byte order, microseconds or nanoseconds. A cut-off last record is left out.

    Raises:
        PcapError: no such file, no classic pcap file, one of another link than Ethernet, or a record that is too long.
    """
    name = os.fspath(path)
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise PcapError(f"cannot read {name}: {error.strerror}") from error
    with file:
        head = file.read(struct.calcsize("=" + _FILE_HEADER))
        order, unit = _magic(head, name)
        network = struct.unpack(order + _FILE_HEADER, head)[6] & 0xFFFF
        if network != _ETHERNET:
            raise PcapError(f"{name}: link type {network}; only Ethernet (1) can enter a switch")
        size = struct.calcsize(order + _RECORD_HEADER)
        while len(header := file.read(size)) == size:
            seconds, fraction, captured, _ = struct.unpack(order + _RECORD_HEADER, header)
            if captured > _SNAP_LENGTH:  # as libpcap; the memory for it would be taken at once
                raise PcapError(f"{name}: a record of {captured} bytes; at most {_SNAP_LENGTH} are possible")
            data = file.read(captured)
            if len(data) < captured:
                return
            yield Record(seconds * _SECOND + fraction * unit, data)


def _magic(head: bytes, name: str) -> tuple[str, int]:
    """Byte order and nanoseconds a unit."""
    if len(head) == struct.calcsize("=" + _FILE_HEADER):
        for order in "<>":
            (magic,) = struct.unpack_from(order + "I", head)
            if magic in (_MICROSECONDS, _NANOSECONDS):
                return order, 1 if magic == _NANOSECONDS else 1000
    raise PcapError(f"{name} is no classic pcap file; `editcap -F pcap` converts others")
