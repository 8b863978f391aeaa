"""Packets through shared memory: one ring up from each worker, one down to all workers of a job.

The memory is a lossy link like any other: a full ring drops, retransmission repairs. The same packets travel as over UDP. An
entry is one cache line of preamble, whose last bytes are the packet's header, then the elements, so that these are aligned:

    0  int32  packet length in bytes, from the header on
    4  int32  destination: a rank, or -1 for all (downlink only)
    54 ...    header (10 bytes), elements

Heads and tails count entries and only grow; each lies on a cache line of its own and has one writer. A job's region:

    line 0        head of the downlink; its low 32 bits are the futex that workers sleep on
    line 1        workers asleep
    line 2 + 3w   uplink head, uplink tail, downlink tail of worker w
    then          uplink entries of worker 0, 1, ...; downlink entries

The first page of the memory belongs to the switch: its first word says that it sleeps and wants the doorbell (an eventfd).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.link import libc
from switchml.link.memory import fence, fetch_add, load_acquire, store_release
from switchml.protocol.header import HEADER_BYTES
from switchml.protocol.jit import compiled

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

LINE = 64
PAGE = 4096
EVERYONE = -1
PACKET_AT = LINE - HEADER_BYTES
"""Where in an entry the packet begins."""

_LONGS_A_LINE = LINE // 8
DOWN_HEAD = 0
SLEEPERS = _LONGS_A_LINE
SWITCH_SLEEPS = 0
"""Index into the switch's page."""


class RingLayout(NamedTuple):
    """Sizes of one job's region, the same at the switch and at every worker."""

    workers: int
    stride: int
    up_entries: int
    down_entries: int

    @property
    def total_bytes(self) -> int:
        """Length of the region, whole pages."""
        entries = self.workers * self.up_entries + self.down_entries
        size = (2 + 3 * self.workers) * LINE + entries * self.stride
        return -(-size // PAGE) * PAGE


@compiled
def ring_layout(workers: int, window: int, payload: int, copies: int = 1) -> RingLayout:
    """The layout for a job; room for one window up a worker and two windows down.

    Args:
        workers: of the job.
        window: slots, a power of two.
        payload: bytes of a packet's elements.
        copies: a power of two, how often a result may be sent down in separate entries.
    """
    return RingLayout(workers, LINE + payload, window, 2 * window * copies)


@compiled
def up_head(worker: int) -> int:
    """Index of the head of a worker's uplink, in the region as int64."""
    return (2 + 3 * worker) * _LONGS_A_LINE


@compiled
def up_tail(worker: int) -> int:
    """Index of the tail of a worker's uplink."""
    return (3 + 3 * worker) * _LONGS_A_LINE


@compiled
def down_tail(worker: int) -> int:
    """Index of the tail of the downlink at a worker."""
    return (4 + 3 * worker) * _LONGS_A_LINE


@compiled
def up_entry(layout: RingLayout, worker: int, count: int) -> int:
    """Byte in the region where the `count`-th entry of a worker's uplink lies."""
    ring = (2 + 3 * layout.workers) * LINE + worker * layout.up_entries * layout.stride
    return ring + (count & (layout.up_entries - 1)) * layout.stride


@compiled
def down_entry(layout: RingLayout, count: int) -> int:
    """Byte in the region where the `count`-th entry of the downlink lies."""
    ring = (2 + 3 * layout.workers) * LINE + layout.workers * layout.up_entries * layout.stride
    return ring + (count & (layout.down_entries - 1)) * layout.stride


@compiled
def set_entry(region: Bytes, entry: int, length: int, destination: int) -> None:
    """Write the preamble of the entry at a byte of the region.

    Args:
        region: of the job.
        entry: from `up_entry` or `down_entry`.
        length: of the packet, in bytes.
        destination: a rank, or EVERYONE.
    """
    words = region[entry : entry + 8].view(np.int32)
    words[0] = length
    words[1] = destination


@compiled
def entry_length(region: Bytes, entry: int) -> int:
    """Length of the packet in the entry at a byte of the region."""
    return int(region[entry : entry + 8].view(np.int32)[0])


@compiled
def entry_destination(region: Bytes, entry: int) -> int:
    """The rank that the entry at a byte of the region is for, or EVERYONE."""
    return int(region[entry : entry + 8].view(np.int32)[1])


@compiled
def slowest_tail(longs: Longs, workers: int) -> int:
    """The downlink entry that some worker has yet to read."""
    slowest = load_acquire(longs, down_tail(0))
    for worker in range(1, workers):
        slowest = min(slowest, load_acquire(longs, down_tail(worker)))
    return int(slowest)


@compiled
def publish_down(longs: Longs, head: int) -> None:
    """Show the downlink up to `head` and wake the workers that sleep."""
    store_release(longs, DOWN_HEAD, head)
    fence()
    if load_acquire(longs, SLEEPERS) > 0:
        libc.futex_wake_all(longs.ctypes.data)


@compiled
def sleep_for_downlink(longs: Longs, seen_head: int, timeout_ns: int, scratch: Longs) -> None:
    """Sleep until the downlink's head is not `seen_head` any more, or woken, or the time is over."""
    fetch_add(longs, SLEEPERS, 1)
    if load_acquire(longs, DOWN_HEAD) == seen_head:
        libc.futex_wait(longs.ctypes.data, seen_head, timeout_ns, scratch)
    fetch_add(longs, SLEEPERS, -1)


@compiled
def ring_doorbell(page: Longs, doorbell: int, scratch: Longs) -> None:
    """After publishing an uplink: wake the switch if it sleeps."""
    fence()
    if load_acquire(page, SWITCH_SLEEPS) != 0:
        scratch[0] = 1
        libc.c_write(doorbell, scratch.ctypes.data, 8)
