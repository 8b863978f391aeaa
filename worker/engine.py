"""The worker's compiled loop: receive, take results, send, wait. It runs without the GIL until something concerns Python."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from switchml.link.libc import monotonic_ns
from switchml.link.memory import load_acquire
from switchml.link.records import view_of
from switchml.protocol.counters import WORKER_COUNTERS, indices
from switchml.protocol.header import HEADER_BYTES
from switchml.protocol.header_access import (
    read_e0,
    read_job,
    read_msg_type,
    read_slot,
    read_tsi,
    read_version,
)
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import ASK, ELEMENT_BYTES
from switchml.protocol.slots import version_of
from switchml.worker import congestion as congestion_control
from switchml.worker import port as ports
from switchml.worker import recovery as loss_recovery
from switchml.worker.chunks import (
    build_packet,
    expected_bytes,
    is_answer,
    is_asked_for,
    is_empty,
    own_bytes,
    packet_bytes,
    result_bytes,
    take_result,
)
from switchml.worker.congestion import Congestion
from switchml.worker.recovery import Recovery, expire, packet_sent
from switchml.worker.window import (
    DUPLICATE,
    FRAMING,
    MISMATCHED,
    RING,
    STALE,
    TIMED_OUT,
    Window,
    advance,
    finish,
    lay,
    mark_asked,
    mark_sent,
    match,
    may_leave,
    next_question,
    next_ready,
    overdue_transfer,
)

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Longs = npt.NDArray[np.int64]

_AT = indices(WORKER_COUNTERS)
_PACKETS_SENT, _BYTES_SENT = _AT["packets_sent"], _AT["bytes_sent"]
_PACKETS_RECEIVED, _BYTES_RECEIVED = _AT["packets_received"], _AT["bytes_received"]
_RETRANSMISSIONS, _CHUNKS = _AT["retransmissions"], _AT["chunks_completed"]
_ASKED, _ANSWERS = _AT["packets_asked_for"], _AT["answers_received"]
_DUPLICATE, _STALE = _AT["dropped_duplicate"], _AT["dropped_stale"]
_FOREIGN, _TRUNCATED, _PORT_FULL = _AT["dropped_foreign"], _AT["dropped_truncated"], _AT["port_full"]

FINISHED, ATTENTION, IDLE_STREAM, EXACT_NEEDED = 1, 2, 3, 4
"""Why `run` returned: a transfer has its final status; Python asked; nothing left to do; blocks to be exchanged exactly."""

_MAX_SLEEP_NS = 5_000_000
_SEND_BURST = 128
_SLOW_NS = 1_000_000
_GATHER_PART = 16


class Engine(NamedTuple):
    """What the loop works on.

    Attributes:
        port: handle of a Port.
        counters: by index of WORKER_COUNTERS.
        descriptor: takes that of the last transfer, in the machine's byte order.
        flag: of one, set to 1 by another thread to make the loop return ATTENTION.
        kept: each slot's last two packets, for a job that goes on without its switch; else empty.
    """

    window: Window
    recovery: Recovery
    congestion: Congestion
    port: int
    counters: Longs
    descriptor: Words
    flag: Longs
    scratch: Longs
    kept: Bytes


engine_at = view_of(Engine)


@inlined
def _take(engine: Engine, memory: Bytes, at: int, length: int, now: int) -> int:
    """One packet from the switch; returns its round trip in ns, or 0 when there is none to be known."""
    window, counters = engine.window, engine.counters
    if length < HEADER_BYTES:
        counters[_TRUNCATED] += 1
        return 0
    if read_job(memory, at) != window.stream[0]["job"]:
        counters[_FOREIGN] += 1
        return 0
    slot = match(window, read_tsi(memory, at), read_slot(memory, at), read_version(memory, at))
    if slot < 0:
        if slot == DUPLICATE and not is_asked_for(window, memory, at):
            loss_recovery.note_duplicate(engine.recovery)
        counters[_DUPLICATE if slot == DUPLICATE else _STALE if slot == STALE else _FOREIGN] += 1
        return 0
    if not is_answer(window, slot, memory, at):
        counters[_FOREIGN] += 1
        return 0
    if length != result_bytes(window, memory, at):
        counters[_TRUNCATED] += 1
        return 0
    if read_msg_type(memory, at) == ASK:
        counters[_ANSWERS] += 1
        loss_recovery.note_answer(engine.recovery, window, slot, read_e0(memory, at) != 0, now)
        return 0
    counters[_PACKETS_RECEIVED] += 1
    counters[_BYTES_RECEIVED] += own_bytes(window, slot, memory, at)
    counters[_CHUNKS] += 1
    exponent = read_e0(memory, at)
    if not take_result(window, slot, exponent, memory, at, engine.descriptor):
        finish(window, int(window.slots[slot]["transfer"]), MISMATCHED)
        return 0
    if loss_recovery.begin_result(engine.recovery, now):
        congestion_control.note_stall(engine.congestion, now)
    sample = loss_recovery.note_result(engine.recovery, window, slot, is_asked_for(window, memory, at), now)
    moved = HEADER_BYTES + FRAMING if is_empty(memory, at) else int(window.slots[slot]["length"])
    congestion_control.note_result(engine.congestion, window, slot, sample, moved, now)
    advance(window, slot, exponent)
    return sample


@inlined
def _receive(engine: Engine) -> int:
    port = engine.port
    found = ports.receive(port)
    if found == 0:
        return 0
    batch = ports.port_at(port)
    now = monotonic_ns(engine.scratch)
    longest = 0
    for index in range(found):
        sample = _take(
            engine,
            ports.rx_memory(port, index),
            int(batch.rx_at[index]),
            int(batch.rx_length[index]),
            now,
        )
        longest = max(longest, sample)
    if longest > 0:
        loss_recovery.estimate(engine.recovery, longest)
    congestion_control.end_results(engine.congestion, engine.window, int(engine.recovery[0]["lost"]), now)
    ports.release(port)
    return found


@compiled
def kept_at(window: Window, slot: int, position: int) -> int:
    """Where in `kept` the slot's packet of that position lies."""
    stream = window.stream[0]
    stride = HEADER_BYTES + ELEMENT_BYTES * int(stream["elements"])
    return (2 * slot + version_of(position, int(stream["window"]))) * stride


@inlined
def _keep(engine: Engine, slot: int, memory: Bytes, at: int, length: int) -> None:
    window = engine.window
    there = kept_at(window, slot, int(window.slots[slot]["position"]))
    packet, copy = memory[at : at + length], engine.kept[there : there + length]
    for i in range(length):
        copy[i] = packet[i]


@inlined
def _send(engine: Engine, now: int) -> int:
    window, port, counters = engine.window, engine.port, engine.counters
    sent = 0
    while sent < _SEND_BURST:
        slot = next_question(window)
        asking = slot >= 0
        if not asking:
            slot = next_ready(window)
        if slot < 0 or not (
            asking or may_leave(window, slot, congestion_control.room(engine.congestion, now))
        ):
            break
        length = packet_bytes(window, slot)
        at = ports.reserve(port, length)
        if at < 0:
            counters[_PORT_FULL] += 1
            break
        build_packet(window, slot, ports.tx_memory(port), at)
        if engine.kept.size > 0 and not asking:
            _keep(engine, slot, ports.tx_memory(port), at, length)
        counters[_PACKETS_SENT] += 1
        counters[_BYTES_SENT] += length
        sent += 1
        if asking:
            mark_asked(window, slot, now)
            counters[_ASKED] += 1
            continue
        # A header may bring back elements, and elements a header: the link that has more to carry is the limit.
        flight = FRAMING + max(length, expected_bytes(window, slot))
        if mark_sent(window, slot, now, flight):
            counters[_RETRANSMISSIONS] += 1
        packet_sent(engine.recovery, window, slot, now)
        congestion_control.note_sent(engine.congestion, window, flight, now)
    ports.flush(port)
    return sent


@inlined
def exact_needed(window: Window) -> bool:
    """Whether some blocks of the transfer laid last are to be exchanged exactly, and Python has yet to arrange it."""
    stream = window.stream[0]
    if stream["laid"] == 0:
        return False
    last = window.transfers[(stream["laid"] - 1) % RING]
    return bool(last["unknown"] == 0 and last["flagged"] > 0 and last["released"] == 0)


@compiled
def run(handle: int, spin_ns: int, limit_ns: int) -> int:
    """Drive the stream until something concerns Python.

    Args:
        handle: of an Engine.
        spin_ns: how long to look again before sleeping.
        limit_ns: the longest it takes.

    Returns:
        FINISHED, ATTENTION, IDLE_STREAM or EXACT_NEEDED.
    """
    engine = engine_at(handle)
    window, recovery, port, scratch = engine.window, engine.recovery, engine.port, engine.scratch
    stream = window.stream[0]
    finished = int(stream["finished"])
    quiet_since = 0
    gathered = False
    lay(window)
    now = monotonic_ns(scratch)
    limit = now + limit_ns
    while True:
        found = _receive(engine)
        if found > 0:
            lay(window)
            now = monotonic_ns(scratch)  # what leaves now has left after what has come
        sent = _send(engine, now)
        # First of all: a transfer must not be taken as finished before its exact exchange is arranged.
        if exact_needed(window):
            return EXACT_NEEDED
        if stream["finished"] != finished:
            return FINISHED
        if load_acquire(engine.flag, 0) != 0 or now >= limit:
            return ATTENTION
        if stream["head"] == stream["queued"]:
            return IDLE_STREAM
        now = monotonic_ns(scratch)
        expire(recovery, window, now)
        if found > 0 or sent > 0:
            quiet_since = now
            gathered = False
            continue
        late = overdue_transfer(window, now)
        if late >= 0:
            finish(window, late, TIMED_OUT)
            return FINISHED
        round_trip = int(recovery[0]["srtt"])
        if round_trip > _SLOW_NS:
            # A link is the limit and its queue is full: packets can wait a little for company.
            if not gathered:
                ports.gather(port, round_trip // _GATHER_PART)
                gathered = True
                now = monotonic_ns(scratch)
                continue
        elif now - quiet_since < spin_ns:
            ports.relax()
            continue
        deadline = int(window.transfers[stream["head"] % RING]["deadline"])
        until = min(int(recovery[0]["next_expiry"]), deadline, limit) - now
        pace = congestion_control.next_leave(engine.congestion, now) - now
        if pace > 0 and next_ready(window) >= 0:
            until = min(until, pace)
        ports.wait(port, max(1, min(until, _MAX_SLEEP_NS)))
        now = monotonic_ns(scratch)
