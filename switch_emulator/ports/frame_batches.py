"""Many frames through a packet socket with one system call (recvmmsg, sendmmsg), from compiled code.

In memory every frame lies behind its `VNET_HEADER` (`segmentation`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from switchml.link import libc
from switchml.link.datagrams import Iovec, MessageHeader
from switchml.link.records import Records, dtype_of, new_records
from switchml.protocol.jit import compiled
from switchml.switch_emulator.ports.segmentation import NEEDS_CHECKSUM, NO_OFFLOAD, NOT_A_TRAIN

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

TOO_LONG, FULL = 0, 1
_HEADER = len(NO_OFFLOAD)
_SENT_AT_ONCE = 64


def _messages(count: int) -> tuple[Records[MessageHeader], Records[Iovec]]:
    """Headers of `count` messages of one piece each, and the pieces."""
    messages, pieces = new_records(MessageHeader, count), new_records(Iovec, count)
    messages["iov"] = pieces.ctypes.data + dtype_of(Iovec).itemsize * np.arange(count)
    messages["iov_count"] = 1
    return messages, pieces


class IncomingFrames:
    """Room for `count` frames of at most `size` bytes, headers included."""

    def __init__(self, count: int, size: int) -> None:
        self._memory = np.zeros(count * size, np.uint8)
        self._view = self._memory.data
        self._starts = range(0, count * size, size)
        self._messages, self._pieces = _messages(count)
        self._pieces["base"] = self._memory.ctypes.data + np.array(self._starts)
        self._pieces["length"] = size
        self._lengths = np.zeros(count, np.int64)
        _receive(-1, self._messages, self._memory, self._lengths)  # compiled now, and not at the first frame

    def receive(self, sock: socket.socket) -> Iterator[tuple[bytes, bytes]]:
        """Take what has come, without waiting: frames, each with its header; b"" for a header that leaves nothing to do."""
        taken = _receive(sock.fileno(), self._messages, self._memory, self._lengths)
        view = self._view
        for start, length in zip(self._starts, self._lengths[:taken].tolist(), strict=False):
            if length > 0:
                yield view[start + _HEADER : start + length].tobytes(), b""
            else:
                header = view[start : start + _HEADER].tobytes()
                yield view[start + _HEADER : start - length].tobytes(), header


class OutgoingFrames:
    """Sends to any socket.

    Attributes:
        dropped: frames that did not leave, by reason, `TOO_LONG` for the interface or `FULL`.
    """

    def __init__(self) -> None:
        self.dropped = np.zeros(2, np.int64)
        self._messages, self._pieces = _messages(_SENT_AT_ONCE)
        nothing = np.frombuffer(NO_OFFLOAD, np.uint8)
        _send(-1, nothing, self.dropped[:0], self._messages, self._pieces, self.dropped)

    def send(self, sock: socket.socket, frames: Sequence[bytes]) -> None:
        """In order, without waiting."""
        memory = np.frombuffer(NO_OFFLOAD + NO_OFFLOAD.join(frames), np.uint8)
        lengths = np.fromiter(map(len, frames), np.int64, len(frames))
        _send(sock.fileno(), memory, lengths, self._messages, self._pieces, self.dropped)


@compiled
def _receive(fd: int, messages: Records[MessageHeader], memory: Bytes, lengths: Longs) -> int:
    """How many messages came. `lengths` become theirs, with header; below zero for one that is not as on a wire."""
    size = memory.size // messages.size
    taken = libc.recvmmsg(fd, messages.ctypes.data, messages.size, libc.MSG_DONTWAIT, 0)
    for index in range(taken):
        length = int(messages[index]["length"])
        flags, kind = memory[index * size], memory[index * size + 1]
        lengths[index] = length if kind == NOT_A_TRAIN and flags & NEEDS_CHECKSUM == 0 else -length
    return max(0, int(taken))


@compiled
def _send(
    fd: int,
    memory: Bytes,
    lengths: Longs,
    messages: Records[MessageHeader],
    pieces: Records[Iovec],
    dropped: Longs,
) -> None:
    """Send frames; `lengths` are theirs, without the headers in front of them."""
    at = memory.ctypes.data
    first = 0
    while first < lengths.size:
        count = min(messages.size, lengths.size - first)
        for index in range(count):
            length = lengths[first + index] + _HEADER
            pieces[index]["base"] = at
            pieces[index]["length"] = length
            at += length
        done = 0
        while done < count:
            sent = libc.sendmmsg(fd, messages[done:].ctypes.data, count - done, libc.MSG_DONTWAIT)
            if sent > 0:
                done += sent
                continue
            error = libc.errno()
            if error == libc.EINTR:
                continue
            # The first of those left did not leave; the others may.
            dropped[TOO_LONG if error == libc.EMSGSIZE or error == libc.EINVAL else FULL] += 1
            done += 1
        first += count
