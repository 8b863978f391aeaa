"""Links that take time, where the kernel has no netem: a loop in this process holds every frame between two TAP interfaces.

A frame leaves at the earliest `delay` after it was read, and in its order. While a line is full nothing is read of it: frames
wait in the interface's own queue, which drops what it cannot hold.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from switchml.closing import Closing
from switchml.link import libc
from switchml.link.memory import bytes_at, load_acquire
from switchml.link.records import Int16, Int32, Int64, Records, new_records
from switchml.protocol.jit import compiled
from switchml.protocol.prepare import prepare

Longs = npt.NDArray[np.int64]

FRAME_BYTES = 65536 + 64
"""The longest frame: a whole train, behind its headers."""
_LABEL_BYTES = 16
_WRAP = -1
_BATCH = 64
_UNKNOWN_RATE = 4 * 10**9
_NAPS = 64  # of a delay: how often a line is looked after at most
_LONGEST_NAP_NS = 200_000


class LineRecord(TypedDict):
    """One direction of a link: a ring of frames, each behind its label, which is its length and when it is to leave."""

    source: Int32  # descriptor that frames are read from
    target: Int32  # descriptor that they are written to
    size: Int64  # of the ring
    begin: Int64  # offset of the oldest frame's label
    end: Int64  # offset behind the newest frame
    frames: Int64  # in the ring
    carried: Int64  # frames, in all
    refused: Int64  # frames that the target did not take


class _Pollfd(TypedDict):
    fd: Int32
    events: Int16
    revents: Int16


class Lines(NamedTuple):
    """What the loop works on. All arrays belong together and are made by `new_lines`.

    Attributes:
        lines: the directions.
        memory: address of each one's ring.
        delay: of one, ns.
        poll: one entry a line, and one more.
        stopped: of one.
        scratch: of two.
    """

    lines: Records[LineRecord]
    memory: Longs
    delay: Longs
    poll: Records[_Pollfd]
    stopped: Longs
    scratch: Longs


@compiled
def _label(lines: Lines, line: int, at: int) -> Longs:
    return bytes_at(lines.memory[line] + at, _LABEL_BYTES).view(np.int64)


@compiled
def room(lines: Lines, line: int) -> int:
    """Offset at which the longest frame has room behind its label, or -1 when there is none."""
    entry = lines.lines[line]
    needed = FRAME_BYTES + _LABEL_BYTES
    if entry["frames"] == 0:
        entry["begin"] = entry["end"] = 0
    if entry["end"] < entry["begin"]:
        return int(entry["end"]) if entry["begin"] - entry["end"] > needed else -1
    if entry["size"] - entry["end"] >= needed + _LABEL_BYTES:  # room for the next label, too
        return int(entry["end"])
    if entry["begin"] <= needed:
        return -1
    _label(lines, line, int(entry["end"]))[0] = _WRAP
    entry["end"] = 0
    return 0


@compiled
def put(lines: Lines, line: int, length: int, due: int) -> None:
    """A frame of that length was written behind the label that `room` named; it leaves at `due`."""
    entry = lines.lines[line]
    label = _label(lines, line, int(entry["end"]))
    label[0], label[1] = length, due
    entry["end"] += _LABEL_BYTES + (length + 7) // 8 * 8
    entry["frames"] += 1


@compiled
def oldest(lines: Lines, line: int) -> int:
    """Offset of the oldest frame's label. There must be one."""
    entry = lines.lines[line]
    if _label(lines, line, int(entry["begin"]))[0] == _WRAP:
        entry["begin"] = 0
    return int(entry["begin"])


@compiled
def take(lines: Lines, line: int) -> None:
    """Let go of the oldest frame."""
    entry = lines.lines[line]
    at = oldest(lines, line)
    entry["begin"] = at + _LABEL_BYTES + (_label(lines, line, at)[0] + 7) // 8 * 8
    entry["frames"] -= 1


@compiled
def _read(lines: Lines, line: int) -> None:
    entry = lines.lines[line]
    for _ in range(_BATCH):
        at = room(lines, line)
        if at < 0:
            return
        place = lines.memory[line] + at + _LABEL_BYTES
        length = libc.c_read(entry["source"], place, FRAME_BYTES)
        if length <= 0:
            return
        put(lines, line, int(length), libc.monotonic_ns(lines.scratch) + int(lines.delay[0]))


@compiled
def _write(lines: Lines, line: int, now: int) -> int:
    """Write what is due; returns when the next frame is, or a delay from now."""
    entry = lines.lines[line]
    while entry["frames"] > 0:
        at = oldest(lines, line)
        label = _label(lines, line, at)
        if label[1] > now:
            return int(label[1])
        written = libc.c_write(entry["target"], lines.memory[line] + at + _LABEL_BYTES, label[0])
        if written == label[0]:
            entry["carried"] += 1
        else:
            entry["refused"] += 1
        take(lines, line)
    return now + int(lines.delay[0])


@compiled
def _carry(lines: Lines, wake: int) -> None:
    """Until `stopped`. wake: an eventfd that ends a sleep."""
    count = lines.lines.size
    nap = min(int(lines.delay[0]) // _NAPS, _LONGEST_NAP_NS)
    while load_acquire(lines.stopped, 0) == 0:
        for line in range(count):
            _read(lines, line)
        now = libc.monotonic_ns(lines.scratch)
        next_due = now + int(lines.delay[0])
        for line in range(count):
            next_due = min(next_due, _write(lines, line, now))
        waiting = 0
        for line in range(count):
            entry = lines.lines[line]
            waiting += int(entry["frames"])
            full = room(lines, line) < 0
            lines.poll[line]["fd"] = -1 if full else entry["source"]
            lines.poll[line]["events"] = libc.POLLIN
        lines.poll[count]["fd"] = wake
        lines.poll[count]["events"] = libc.POLLIN
        if waiting > 0:
            # Frames come in crowds: better to look after them together than to wake for each.
            libc.pause(nap, lines.scratch)
        until = max(0, next_due - libc.monotonic_ns(lines.scratch)) if waiting > 0 else 1_000_000_000
        lines.scratch[0], lines.scratch[1] = until // 1_000_000_000, until % 1_000_000_000
        libc.ppoll(lines.poll.ctypes.data, count + 1, lines.scratch.ctypes.data, 0)


def new_lines(pairs: Sequence[tuple[int, int]], delay: float, rings: npt.NDArray[np.uint8]) -> Lines:
    """Empty lines.

    Args:
        pairs: source and target descriptor of each line.
        delay: seconds.
        rings: a row a line; the caller keeps it.
    """
    lines = Lines(
        new_records(LineRecord, len(pairs)),
        np.zeros(len(pairs), np.int64),
        np.array([round(delay * 1e9)], np.int64),
        new_records(_Pollfd, len(pairs) + 1),
        np.zeros(1, np.int64),
        np.zeros(2, np.int64),
    )
    for number, (source, target) in enumerate(pairs):
        lines.lines[number]["source"], lines.lines[number]["target"] = source, target
        lines.lines[number]["size"] = rings.shape[1]
        lines.memory[number] = rings[number].ctypes.data
    return lines


class DelayLines(Closing):
    """Joins pairs of TAP interfaces, whose descriptors stay the caller's. A context manager.

    Args:
        pairs: descriptors of the two ends of each link.
        delay: seconds from one end to the other, each way.
        rate: bits a second of a link, of which its ring shall hold twice what is on the way; 0 = unknown.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], delay: float, rate: int) -> None:
        on_the_way = round(2 * delay * (rate or _UNKNOWN_RATE) / 8)
        size = (4 * FRAME_BYTES + on_the_way + 7) // 8 * 8
        self._rings = np.zeros((2 * len(pairs), size), np.uint8)  # pages that nobody touches take no memory
        directions = [line for near, far in pairs for line in ((near, far), (far, near))]
        self._lines = new_lines(directions, delay, self._rings)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        prepare(_carry, "testbed's delay lines", self._lines, self._wake)
        self._thread = threading.Thread(
            target=_carry, args=(self._lines, self._wake), name="switchml-delay-lines", daemon=True
        )
        self._thread.start()

    @property
    def carried(self) -> int:
        """Frames that have left the lines; a train counts once."""
        return int(self._lines.lines["carried"].sum())

    def close(self) -> None:
        """Let go of the interfaces. Idempotent."""
        if self._wake < 0:
            return
        self._lines.stopped[0] = 1
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._wake = -1
