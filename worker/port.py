"""The two transports behind one small interface, for the compiled engine.

A port hands in packets as places in `rx_memory` and takes packets built in place in `tx_memory`:

    receive    what has come, at most BATCH packets; `release` when they have been used
    reserve    room for a packet to be built in, or -1 when there is none now; `flush` sends what was built
    wait       sleep until something may have come
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypedDict, cast

import numpy as np
import numpy.typing as npt

from switchml.link import datagrams, libc, ring
from switchml.link.datagrams import Datagrams
from switchml.link.memory import bytes_at, load_acquire, store_release
from switchml.link.records import Int64, Records, view_of
from switchml.packets import tape as tapes
from switchml.packets.tape import Tape
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.on_demand import call_at

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

UDP, SHM = 0, 1

BATCH = 256
_SHM_PUBLISH = 32
# Typed, because a function is compiled once more for every literal it is called with.
_NONE = cast(int, np.int64(0))
_GROUP_SOCKET = cast(int, np.int64(1))
OWN, SWITCH, ALL = (cast(int, np.int64(row)) for row in range(3))
"""Rows of `Port.ends`."""


class PortRecord(TypedDict):
    """Where a port stands."""

    kind: Int64
    wake: Int64  # eventfd that ends a wait of a UDP port; -1: none
    doorbell: Int64  # eventfd of the switch
    worker: Int64
    up: Int64  # entries built
    shown: Int64  # entries published
    up_limit: Int64  # entries that certainly have room
    down: Int64  # entries read
    failed: Int64  # datagrams that did not leave
    note: Int64  # address of `note_packet`; 0: no packet is noted
    write: Int64  # address of `write_notes`


class Port(NamedTuple):
    """State of a port. UDP uses the first of these, shared memory the second.

    Attributes:
        unicast: UDP: connected to the switch.
        group: UDP: multicast results; may be a stand-in.
        layout: shared memory: of the job's rings.
        region: shared memory: the job's.
        longs: shared memory: the region as int64.
        page: shared memory: the switch's own.
        rx_at: by packet handed in, where it lies.
        rx_length: its bytes.
        rx_source: UDP: the socket, 1 for the group's.
        tape: takes all packets, where `note` is set.
        ends: MAC address, IPv4 address and UDP port, as the tape tells them, of this worker, the switch, and all workers.
    """

    state: Records[PortRecord]
    unicast: Datagrams
    group: Datagrams
    layout: ring.RingLayout
    region: Bytes
    longs: Longs
    page: Longs
    rx_at: Longs
    rx_length: Longs
    rx_source: Longs
    scratch: Longs
    tape: Tape
    ends: Annotated[Longs, (3, 3)]


port_at = view_of(Port)


@compiled
def note_packet(handle: int, source: int, target: int, address: int, length: int) -> int:
    """Note a packet that lies at an address, between two of a port's `ends`; 0."""
    port = port_at(handle)
    ends = port.ends
    tapes.note(
        port.tape, int(ends[source, 0]), int(ends[source, 1]), int(ends[source, 2]), int(ends[target, 0]),
        int(ends[target, 1]), int(ends[target, 2]), bytes_at(address, length), 0, length,
    )  # fmt: skip
    return 0


@compiled
def write_notes(handle: int) -> int:
    """Write what has been noted; 0."""
    tapes.write(port_at(handle).tape)
    return 0


@compiled
def _note(handle: int, source: int, target: int, memory: Bytes, at: int, length: int) -> None:
    call_at(port_at(handle).state[0]["note"], handle, source, target, memory.ctypes.data + at, length)


@compiled
def _split_trains(handle: int, source: int, found: int) -> int:
    port = port_at(handle)
    link = port.group if source == 1 else port.unicast
    for message in range(datagrams.receive(link)):
        at = datagrams.message_start(link, message)
        end = at + datagrams.message_bytes(link, message)
        segment = datagrams.segment_bytes(link, message)
        while at < end and found < port.rx_at.size:
            port.rx_at[found] = at
            port.rx_length[found] = min(segment, end - at)
            port.rx_source[found] = source
            if port.state[0]["note"] != 0:
                _note(handle, SWITCH, ALL if source == 1 else OWN, link.rx_memory, at, min(segment, end - at))
            found += 1
            at += segment
    return found


@inlined
def receive(handle: int) -> int:
    """Packets that have come, described by rx_at, rx_length and rx_source."""
    port = port_at(handle)
    state = port.state[0]
    if state["kind"] == UDP:
        found = _NONE
        if port.group.registers[datagrams.FD] >= 0:
            found = _split_trains(handle, _GROUP_SOCKET, found)
        # The receive buffers of both sockets are their own, so both can be read in one turn.
        return _split_trains(handle, _NONE, found)
    found = 0
    head = load_acquire(port.longs, ring.DOWN_HEAD)
    count = int(state["down"])
    while count < head and found < BATCH:
        entry = ring.down_entry(port.layout, count)
        destination = ring.entry_destination(port.region, entry)
        if destination == ring.EVERYONE or destination == state["worker"]:
            port.rx_at[found] = entry + ring.PACKET_AT
            port.rx_length[found] = ring.entry_length(port.region, entry)
            if port.state[0]["note"] != 0:
                target = ALL if destination == ring.EVERYONE else OWN
                _note(handle, SWITCH, target, port.region, int(port.rx_at[found]), int(port.rx_length[found]))
            found += 1
        count += 1
    state["down"] = count
    return found


@compiled
def rx_memory(handle: int, packet: int) -> Bytes:
    """The memory that packet lies in."""
    port = port_at(handle)
    if port.state[0]["kind"] == SHM:
        return port.region
    return port.group.rx_memory if port.rx_source[packet] == 1 else port.unicast.rx_memory


@compiled
def release(handle: int) -> None:
    """The packets handed in have been used."""
    port = port_at(handle)
    state = port.state[0]
    if state["kind"] == SHM:
        store_release(port.longs, ring.down_tail(int(state["worker"])), int(state["down"]))


@inlined
def reserve(handle: int, length: int) -> int:
    """Room for a packet of that length; returns its place in `tx_memory`, or -1."""
    port = port_at(handle)
    state = port.state[0]
    if state["kind"] == UDP:
        if not datagrams.has_room(port.unicast, length):
            flush(handle)
        return datagrams.append(port.unicast, length)
    if state["up"] >= state["up_limit"]:
        tail = load_acquire(port.longs, ring.up_tail(int(state["worker"])))
        state["up_limit"] = tail + port.layout.up_entries
        if state["up"] >= state["up_limit"]:
            return -1
    entry = ring.up_entry(port.layout, int(state["worker"]), int(state["up"]))
    ring.set_entry(port.region, entry, length, int(state["worker"]))
    state["up"] += 1
    if state["up"] - state["shown"] > _SHM_PUBLISH:
        # All before this one is complete: let the switch begin.
        _publish(handle, int(state["up"]) - 1)
    return entry + ring.PACKET_AT


@compiled
def tx_memory(handle: int) -> Bytes:
    """The memory that packets are built in."""
    port = port_at(handle)
    return port.region if port.state[0]["kind"] == SHM else port.unicast.tx_memory


@inlined
def _publish(handle: int, head: int) -> None:
    port = port_at(handle)
    state = port.state[0]
    if port.state[0]["note"] != 0:
        for count in range(state["shown"], head):
            entry = ring.up_entry(port.layout, int(state["worker"]), count)
            _note(
                handle,
                OWN,
                SWITCH,
                port.region,
                entry + ring.PACKET_AT,
                ring.entry_length(port.region, entry),
            )
    store_release(port.longs, ring.up_head(int(state["worker"])), head)
    state["shown"] = head
    ring.ring_doorbell(port.page, int(state["doorbell"]), port.scratch)


@inlined
def flush(handle: int) -> None:
    """Send what has been built."""
    port = port_at(handle)
    state = port.state[0]
    if state["kind"] == UDP:
        if port.state[0]["note"] != 0:
            link = port.unicast
            end, segment = datagrams.train_bytes(link), datagrams.train_segment(link)
            for at in range(0, end, max(segment, 1)):
                _note(handle, OWN, SWITCH, link.tx_memory, at, min(segment, end - at))
        state["failed"] += datagrams.send_train(port.unicast, 0, 1)
    elif state["up"] > state["shown"]:
        _publish(handle, int(state["up"]))
    if state["note"] != 0:
        call_at(state["write"], handle)


@compiled
def wait(handle: int, timeout_ns: int) -> None:
    """Sleep until a packet or a wake-up may have come, or the time is over."""
    port = port_at(handle)
    state = port.state[0]
    if state["kind"] == UDP:
        wake = int(state["wake"])
        datagrams.wait_readable(port.unicast, int(port.group.registers[datagrams.FD]), wake, timeout_ns)
        if port.unicast.poll[2]["revents"] & libc.POLLIN:
            datagrams.drain_event(port.unicast, wake)  # or no wait would last any more
    else:
        ring.sleep_for_downlink(port.longs, int(state["down"]), timeout_ns, port.scratch)


@compiled
def gather(handle: int, duration_ns: int) -> None:
    """Let packets come together for that long, so that one wake-up and one train serve many."""
    libc.pause(duration_ns, port_at(handle).scratch)


@compiled
def relax() -> None:
    """Let another process have the core."""
    libc.sched_yield()
