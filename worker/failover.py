"""A stream that goes on at another switch: the ranks tell each other there where they stand, and sum up once more what only some
of them have the result of. standing.py says why that is at most one chunk a slot, of which all keep their own packets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

import numpy as np
import numpy.typing as npt

from switchml.aggregation.aggregate import emit_lanes, shift_of, take_lanes
from switchml.protocol.byteorder import copy_swapped
from switchml.protocol.header import HEADER_BYTES, Header
from switchml.protocol.header_access import pack_header, read_e0, read_msg_type
from switchml.protocol.messages import ABSENT, ELEMENT_BYTES, LANE_BITS
from switchml.protocol.numerics import UNKNOWN_EXPONENT
from switchml.worker.chunks import take_result
from switchml.worker.collectives import Direct, Part, Pipeline, gathering
from switchml.worker.engine import Engine, kept_at
from switchml.worker.signature import Signature
from switchml.worker.standing import contested, frontiers
from switchml.worker.stream import Stream
from switchml.worker.window import BLOCKS, MISMATCHED, WORDS, Window, advance, chunk_elements, finish
from switchml.worker.work import Work

Bytes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint32]


def kept_facts(packet: Bytes) -> int:
    """Kind and exponent of a packet, as one word."""
    return read_msg_type(packet, 0) << 8 | read_e0(packet, 0) & 0xFF


def kept_elements(packet: Bytes, sums: Sums) -> None:
    """Put a packet's elements, as int32, at the beginning of `sums`; nothing where it has none."""
    bits = int(LANE_BITS[read_msg_type(packet, 0)])
    if bits == 0:
        return
    payload = packet[HEADER_BYTES:]
    if bits == 32:
        copy_swapped(payload.view(np.uint32), sums[: payload.size // 4].view(np.uint32))
    else:
        lanes = payload.view(np.uint16) if bits == 16 else payload
        take_lanes(lanes, 0, sums[: lanes.size])


def summed_up(facts: Words, sums: Sums, packet: Bytes) -> int:
    """Write the result that the switch would have sent to who wants the elements; returns the exponent.

    Args:
        facts: `kept_facts` of all ranks' packets of the chunk.
        sums: of their elements; as many as a packet of narrow lanes has at least.
        packet: as long as a packet of elements.
    """
    kinds, exponents = facts >> 8, facts.astype(np.uint8).view(np.int8)
    given = kinds[kinds != ABSENT]
    kind, exponent = int(given[0]) if given.size else ABSENT, int(exponents.max())
    bits, shift = int(LANE_BITS[kind]), UNKNOWN_EXPONENT
    payload = packet[HEADER_BYTES:]
    if bits == 32:
        copy_swapped(sums[: payload.size // 4].view(np.uint32), payload.view(np.uint32))
    elif bits > 0:
        lanes = payload.view(np.uint16) if bits == 16 else payload
        shift = shift_of(sums[: lanes.size], bits)
        emit_lanes(sums[: lanes.size], lanes, shift)
    pack_header(packet, 0, Header(msg_type=kind, e0=exponent, e1=shift))
    return exponent


def settling(window: Window, kept: Bytes, descriptor: Words) -> Generator[tuple[bool, Words], Words, None]:
    """One rank's part of bringing all to the highest frontiers among them; no I/O.

    Args:
        window: of the stream that has lost its switch.
        kept: as in `Engine`.
        descriptor: likewise.

    Yields:
        Words to be brought to all ranks, each at this point: True for those that are added up (int32), False for those that are
        put side by side, (ranks, words of one). What came of it is to be sent in.

    Raises:
        CollectiveError: the ranks do not stand where they can.
    """
    own = frontiers(window)
    standings = (yield False, own.view(np.uint32)).view(np.int64)
    slots = contested(standings)
    if slots.size == 0:
        return
    positions = standings.min(axis=0)
    facts = np.zeros(slots.size, np.uint32)
    sums = np.zeros((slots.size, chunk_elements(window, BLOCKS)), np.int32)
    length = HEADER_BYTES + ELEMENT_BYTES * int(window.stream[0]["elements"])
    for row, slot in enumerate(slots):
        at = kept_at(window, int(slot), int(positions[slot]))
        packet = kept[at : at + length]
        facts[row] = kept_facts(packet)
        kept_elements(packet, sums[row])
    every = yield False, facts
    total = (yield True, sums.reshape(-1).view(np.uint32)).view(np.int32).reshape(sums.shape)
    packet = np.zeros(length, np.uint8)
    for row, slot in enumerate(slots):
        if own[slot] == positions[slot]:
            exponent = summed_up(every[:, row], total[row], packet)
            _take(window, int(slot), exponent, packet, descriptor)


def settle(engine: Engine, stream: Stream, deadline: int) -> None:
    """`settling`, through a stream.

    Args:
        engine: that which had the switch that is gone.
        stream: a new one, at the new switch; nothing else goes through it.
        deadline: ns, of CLOCK_MONOTONIC.

    Raises:
        CollectiveError: the ranks cannot agree, or the new switch is gone as well.
    """
    part = settling(engine.window, engine.kept, engine.descriptor)
    rank, workers = int(engine.window.stream[0]["rank"]), int(engine.window.stream[0]["workers"])
    with contextlib.suppress(StopIteration):
        adds, words = next(part)
        while True:
            if adds:
                whole = Part(WORDS, words.size, words, words)
                said = Signature("switches", "int32", "sum", words.size)
                result = words
            else:
                result = np.empty((workers, words.size), np.uint32)
                whole = gathering(words, result, rank, None)
                said = Signature("switches", "bytes", "none", 4 * words.size)
            work = Work(stream, "the ranks' agreement on where a job goes on", np.zeros(0, np.uint8))
            stream.submit(Pipeline(Direct(whole), said, deadline, _ending(work), work.finish), False)
            work.wait()
            adds, words = part.send(result)


def _ending(work: Work) -> Callable[[int], None]:
    def done(_: int) -> None:
        work.finish()

    return done


def _take(window: Window, slot: int, exponent: int, packet: Bytes, descriptor: Words) -> None:
    if take_result(window, slot, exponent, packet, 0, descriptor):
        advance(window, slot, exponent)
    else:
        finish(window, int(window.slots[slot]["transfer"]), MISMATCHED)
