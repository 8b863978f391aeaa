"""From memory to packet and back: builds the packet a slot has to send and takes the result it gets. Window: worker/window.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.link.memory import array_at, bytes_at
from switchml.protocol.byteorder import copy_swapped, swap_bytes
from switchml.protocol.header import HEADER_BYTES, Header
from switchml.protocol.header_access import (
    pack_header,
    read_but_one,
    read_e1,
    read_msg_type,
    read_size,
    read_to_one,
)
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import ABSENT, ASK, ELEMENT_BYTES, EXPONENTS, LANE_BITS, MAX_PAYLOAD, SUM
from switchml.protocol.numerics import EXACT_EXPONENT, MAX_SHIFT, MIN_EXPONENT, UNKNOWN_EXPONENT
from switchml.protocol.slots import TSI_MASK, slot_of, version_of
from switchml.worker.kernels import (
    bits_exponent,
    dequantize,
    dequantize_lanes,
    dequantize_onto,
    quantize,
    quantize_lanes,
    subtract_lanes,
)
from switchml.worker.window import (
    ASKING,
    BLOCKS,
    RING,
    SIGNATURE_WORDS,
    WORDS,
    TransferRecord,
    Window,
    chunk_elements,
    exponents_at,
    is_side_by_side,
    learn_exponent,
    names_ranks,
    position_on_wire,
    relative,
    signature_words,
)

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]

_ZEROS = np.zeros(MAX_PAYLOAD // ELEMENT_BYTES, np.uint32)

RUN = 16
"""Chunks of one rank's part in a row, before another's take their turn."""


@inlined
def floats_at(address: int, first: int, count: int) -> Any:
    """`count` float32 from the `first` on of an array at an address."""
    return array_at(address + 4 * first, count, np.float32)


@inlined
def words_at(address: int, first: int, count: int) -> Any:
    """Likewise, uint32."""
    return array_at(address + 4 * first, count, np.uint32)


@compiled
def chunk_kind(window: Window, slot: int) -> int:
    """Message type of the slot's chunk."""
    place = relative(window, slot)
    transfer = window.transfers[window.slots[slot]["transfer"] % RING]
    if place <= transfer["prologue"]:
        return SUM if is_side_by_side(window, transfer, place) else EXPONENTS
    return int(window.stream[0]["block_kind"]) if transfer["kind"] == BLOCKS else SUM


@inlined
def packet_kind(window: Window, slot: int) -> int:
    """Message type of the packet the slot sends: `given_kind`, or ABSENT where the elements are needed nowhere else; or ASK."""
    if window.slots[slot]["state"] == ASKING:
        return ASK
    return ABSENT if _is_own(window, slot) else given_kind(window, slot)


@inlined
def given_kind(window: Window, slot: int) -> int:
    """Message type of what this rank gives to the slot's chunk: the chunk's, or ABSENT where all its elements are 0."""
    kind = chunk_kind(window, slot)
    place = relative(window, slot)
    entry = window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    if place <= transfer["prologue"]:
        return kind
    elements = chunk_elements(window, transfer["kind"])
    chunk = block_of(window, transfer, place - 1 - int(transfer["prologue"]))
    begin, length = chunk * elements, chunk_length(transfer, chunk, elements)
    if transfer["kind"] == BLOCKS:
        exact = entry["exponent"] == EXACT_EXPONENT
        empty = exact or _all_zero(floats_at(transfer["source"], begin, length))
    else:
        first, last = given_words(transfer, begin, length)
        empty = _all_zero(words_at(transfer["source"], first - int(transfer["first"]), max(0, last - first)))
    return ABSENT if empty else kind


@inlined
def block_of(window: Window, transfer: TransferRecord, chunk: int) -> int:
    """Which stretch of the elements the chunk carries, counted in chunks.

    Where ranks want a part each, or give one, the parts take turns: who wants a chunk sends a header of it and gets the elements,
    so in one part after the other each link would be idle one way in turn. Runs of a part are long enough to leave in one system
    call.
    """
    rows, chunks, part = int(window.stream[0]["workers"]), int(transfer["chunks"]), int(transfer["part"])
    length = -(-chunks // rows)
    last = chunks - (rows - 1) * length  # in the last row, which may be shorter
    if part == 0 or part >= transfer["count"] or last < RUN:
        return chunk
    dealt = last // RUN * RUN  # of each row
    if chunk < rows * dealt:
        turn, place = chunk // RUN, chunk % RUN
        return turn % rows * length + turn // rows * RUN + place
    rest = chunk - rows * dealt
    row = rest // (length - dealt) if length > dealt else 0
    return row * dealt + dealt + rest


@inlined
def packet_bytes(window: Window, slot: int) -> int:
    """Length of the packet the slot sends."""
    return bytes_of(window, packet_kind(window, slot))


@compiled
def bytes_of(window: Window, kind: int) -> int:
    """Length of a packet of that type."""
    return HEADER_BYTES + 4 * int(window.stream[0]["elements"]) if LANE_BITS[kind] > 0 else HEADER_BYTES


@compiled
def _all_zero(values: Any) -> bool:
    for value in values:  # noqa: SIM110 - compiled, and the first one mostly ends it
        if value != 0:
            return False
    return True


@compiled
def given_words(transfer: TransferRecord, begin: int, length: int) -> tuple[int, int]:
    """WORDS: first and one past the last of this rank's words among `length` from `begin`."""
    return max(begin, int(transfer["first"])), min(begin + length, int(transfer["last"]))


@inlined
def named_rank(window: Window, slot: int) -> int:
    """The rank that alone wants the result of the slot's chunk, or alone does not; -1 where there is none."""
    transfer = window.transfers[window.slots[slot]["transfer"] % RING]
    part = int(transfer["part"])
    chunk = relative(window, slot) - 1 - int(transfer["prologue"])
    if part == 0 or chunk < 0:
        return -1
    elements = chunk_elements(window, transfer["kind"])
    chunk = block_of(window, transfer, chunk)
    begin = int(transfer["origin"]) + chunk * elements
    first, last = begin // part, (begin + chunk_length(transfer, chunk, elements) - 1) // part
    return first if first == last else -1


@inlined
def is_withheld(window: Window, slot: int) -> bool:
    """Whether others get the elements of the slot's result, and this rank the header."""
    named = named_rank(window, slot)
    others = window.transfers[window.slots[slot]["transfer"] % RING]["others"] != 0
    return named >= 0 and (named == window.stream[0]["rank"]) == others


@inlined
def _is_own(window: Window, slot: int) -> bool:
    """Whether this rank alone wants the result of the slot's chunk: its own elements are added here, and need not travel.

    Not those of narrow lanes: the switch shifts whole sums, and bits must be those of an all-reduce.
    """
    if window.transfers[window.slots[slot]["transfer"] % RING]["others"] != 0:
        return False
    return named_rank(window, slot) == window.stream[0]["rank"] and LANE_BITS[chunk_kind(window, slot)] == 32


@compiled
def wanted_elements(window: Window, transfer: TransferRecord, chunk: int) -> tuple[int, int]:
    """First and one past the last of the elements of a chunk whose sums this rank wants."""
    elements = chunk_elements(window, transfer["kind"])
    begin = chunk * elements
    end = begin + chunk_length(transfer, chunk, elements)
    part = int(transfer["part"])
    if part == 0 or transfer["others"] != 0:
        return begin, end
    mine = int(window.stream[0]["rank"]) * part - int(transfer["origin"])
    first = min(max(begin, mine), end)
    return first, max(first, min(end, mine + part))


@inlined
def is_answer(window: Window, slot: int, memory: Bytes, at: int) -> bool:
    """Whether the packet at `memory[at:]` can be the slot's result, by its type and `e1`, or what the switch says when asked."""
    kind = read_msg_type(memory, at)
    if kind == ASK:
        return True
    if kind == ABSENT:
        if relative(window, slot) <= window.transfers[window.slots[slot]["transfer"] % RING]["prologue"]:
            return False
        # With a bit set there are elements, and they are for others.
        return (read_to_one(memory, at) == 0 and read_but_one(memory, at) == 0) or is_withheld(window, slot)
    narrow = 0 < LANE_BITS[kind] < 32
    return kind == chunk_kind(window, slot) and (not narrow or 0 <= read_e1(memory, at) <= MAX_SHIFT)


@compiled
def is_asked_for(window: Window, memory: Bytes, at: int) -> bool:
    """Whether a result answers a question; the others go to all ranks, or answer a packet that was sent again."""
    return read_size(memory, at) != window.stream[0]["size"]


@compiled
def result_bytes(window: Window, memory: Bytes, at: int) -> int:
    """Length of a result, by its type."""
    return bytes_of(window, read_msg_type(memory, at))


@inlined
def own_bytes(window: Window, slot: int, memory: Bytes, at: int) -> int:
    """What of a result is for this rank: of elements for others, which shared memory shows to all, the header."""
    return HEADER_BYTES if is_withheld(window, slot) else result_bytes(window, memory, at)


@inlined
def expected_bytes(window: Window, slot: int) -> int:
    """What the slot's result brings this rank if any rank gives elements."""
    if window.slots[slot]["exponent"] == EXACT_EXPONENT or is_withheld(window, slot):
        return HEADER_BYTES
    return bytes_of(window, chunk_kind(window, slot))


@compiled
def is_empty(memory: Bytes, at: int) -> bool:
    """Whether a result says that no rank has given elements: headers went both ways."""
    if read_to_one(memory, at) != 0 or read_but_one(memory, at) != 0:
        return False
    return read_msg_type(memory, at) == ABSENT


@compiled
def _fill_descriptor(window: Window, transfer: TransferRecord, payload: Words) -> None:
    stream = window.stream[0]
    first = SIGNATURE_WORDS * int(stream["rank"]) if names_ranks(int(stream["workers"]), payload.size) else 0
    copy_swapped(transfer["signature"], payload[first : first + SIGNATURE_WORDS])


@compiled
def _first_exponent(window: Window, place: int) -> int:
    """The byte of the payload at which exponents that lie side by side begin."""
    stream = window.stream[0]
    words = signature_words(int(stream["workers"]), int(stream["elements"]))
    return ELEMENT_BYTES * words if place == 0 else 0


@compiled
def _fill_exponents(window: Window, transfer: TransferRecord, place: int, payload: Bytes) -> None:
    """This rank's exponents, into bytes that are 0."""
    first, last = exponents_at(window, transfer, place)
    begin = _first_exponent(window, place) + int(window.stream[0]["rank"]) * (last - first)
    for chunk in range(first, last):
        payload[begin + chunk - first] = np.uint8(exponent_of(window, transfer, chunk) & 0xFF)


@compiled
def note_exponents(window: Window, slot: int, exponent: int, payload: Bytes) -> None:
    """Learn the exponents among a result's elements; note of these, and of that in its header, what goes exactly."""
    index, place = int(window.slots[slot]["transfer"]), relative(window, slot)
    transfer = window.transfers[index % RING]
    first, last = exponents_at(window, transfer, place)
    if not is_side_by_side(window, transfer, place):
        if first < last:
            _flag_exact(window, transfer, first, exponent)
        return
    begin, exponents = _first_exponent(window, place), payload.view(np.int8)
    for chunk in range(first, last):
        largest = MIN_EXPONENT
        for rank in range(int(window.stream[0]["workers"])):
            largest = max(largest, int(exponents[begin + rank * (last - first) + chunk - first]))
        _flag_exact(window, transfer, chunk, largest)
        learn_exponent(window, index, chunk, largest)


@compiled
def _fill_words(transfer: TransferRecord, chunk: int, payload: Words) -> None:
    """This rank's words of the chunk, zeros elsewhere."""
    begin = chunk * payload.size
    first, last = given_words(transfer, begin, payload.size)
    payload[: first - begin] = np.uint32(0)
    copy_swapped(
        words_at(transfer["source"], first - int(transfer["first"]), last - first),
        payload[first - begin : last - begin],
    )
    payload[last - begin :] = np.uint32(0)


@compiled
def chunk_length(transfer: TransferRecord, chunk: int, elements: int) -> int:
    """Elements of a chunk of a transfer whose full chunks have `elements`."""
    return min(elements, int(transfer["count"]) - chunk * elements)


@inlined
def _fill_block(window: Window, slot: int, chunk: int, payload: Bytes) -> None:
    """The chunk's float32 block, in the form of the stream's wire."""
    stream, entry = window.stream[0], window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    elements, exponent = chunk_elements(window, BLOCKS), int(entry["exponent"])
    block = floats_at(transfer["source"], chunk * elements, chunk_length(transfer, chunk, elements))
    first = int(transfer["first"]) + chunk * elements
    bits = LANE_BITS[stream["block_kind"]]
    if bits == 32:
        quantize(block, payload.view(np.uint32), exponent, int(stream["workers"]))
    elif bits == 16:
        quantize_lanes(block, payload.view(np.uint16), exponent, int(transfer["seed"]), first)
    else:
        quantize_lanes(block, payload, exponent, int(transfer["seed"]), first)


@inlined
def _take_nothing(window: Window, slot: int, first: int, last: int) -> None:
    """The result of elements first to last - 1, to which no other rank gave any, or to which this rank alone did."""
    transfer = window.transfers[window.slots[slot]["transfer"] % RING]
    out = words_at(transfer["destination"], first - skipped_before(window, transfer), last - first)
    if not _is_own(window, slot) and transfer["others"] == 0:
        out[:] = np.uint32(0)
    else:
        _add_own(window, slot, first, _ZEROS[: out.size], out)


@inlined
def _take_words(window: Window, slot: int, chunk: int, first: int, last: int, payload: Words) -> None:
    """The way back of `_fill_words`, of the words first to last - 1."""
    transfer = window.transfers[window.slots[slot]["transfer"] % RING]
    begin = chunk * payload.size
    mine = payload[first - begin : last - begin]
    out = words_at(transfer["destination"], first - skipped_before(window, transfer), last - first)
    if _is_own(window, slot):
        _add_own(window, slot, first, mine, out)
    else:
        copy_swapped(mine, out)


@inlined
def _add_own(window: Window, slot: int, first: int, sums: Words, out: Words) -> None:
    """Sums of the other ranks, in network order, with this rank's own elements, which may lie where they go."""
    entry = window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    if transfer["kind"] == BLOCKS:
        own = floats_at(transfer["source"], first, out.size)
        dequantize_onto(
            sums, own, out.view(np.float32), int(entry["exponent"]), int(window.stream[0]["workers"])
        )
        return
    given, end = given_words(transfer, first, out.size)
    given = min(given - first, out.size)
    end = max(given, end - first)
    words = words_at(transfer["source"], first + given - int(transfer["first"]), end - given)
    copy_swapped(sums[:given], out[:given])
    for i in range(given, end):
        out[i] = np.uint32((int(swap_bytes(sums[i])) + int(words[i - given])) & 0xFFFFFFFF)
    copy_swapped(sums[end:], out[end:])


@inlined
def _take_block(
    window: Window, slot: int, chunk: int, first: int, last: int, shift: int, payload: Bytes
) -> None:
    """The way back of `_fill_block`, of the elements first to last - 1. shift: of the result, on a narrow wire."""
    stream, entry = window.stream[0], window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    elements, exponent = chunk_elements(window, BLOCKS), int(entry["exponent"])
    begin = chunk * elements
    out = floats_at(transfer["destination"], first - skipped_before(window, transfer), last - first)
    bits = LANE_BITS[stream["block_kind"]]
    mine = payload[(first - begin) * bits // 8 : (last - begin) * bits // 8]
    if _is_own(window, slot):
        _add_own(window, slot, first, mine.view(np.uint32), out.view(np.uint32))
        return
    if bits == 32:
        dequantize(mine.view(np.uint32), out, exponent, int(stream["workers"]))
        return
    if transfer["feedback"] != 0:
        source = floats_at(transfer["source"], begin, chunk_length(transfer, chunk, elements))
        subtract_lanes(source, bits, exponent, int(transfer["seed"]), int(transfer["first"]) + begin)
    if bits == 16:
        dequantize_lanes(mine.view(np.uint16), out, exponent, shift)
    else:
        dequantize_lanes(mine, out, exponent, shift)


@compiled
def skipped_before(window: Window, transfer: TransferRecord) -> int:
    """Elements before the first that this rank wants."""
    if transfer["others"] != 0:
        return 0
    mine = int(window.stream[0]["rank"]) * int(transfer["part"])
    return max(0, mine - int(transfer["origin"]))


@inlined
def exponent_ahead(window: Window, slot: int) -> int:
    """The exponent in the header of the slot's packet, that of a later chunk of its transfer, or UNKNOWN_EXPONENT."""
    transfer = window.transfers[window.slots[slot]["transfer"] % RING]
    place = relative(window, slot)
    first, last = exponents_at(window, transfer, place)
    if first == last or is_side_by_side(window, transfer, place):
        return UNKNOWN_EXPONENT
    return exponent_of(window, transfer, first)


@inlined
def exponent_of(window: Window, transfer: TransferRecord, chunk: int) -> int:
    """The exponent of a float32 chunk's elements."""
    elements, block = chunk_elements(window, BLOCKS), block_of(window, transfer, chunk)
    return bits_exponent(
        words_at(transfer["source"], block * elements, chunk_length(transfer, block, elements))
    )


@inlined
def build_packet(window: Window, slot: int, memory: Bytes, at: int) -> None:
    """Write the slot's packet, `packet_bytes` long, at `memory[at:]`. The same bytes every time it is called for a position."""
    stream = window.stream[0]
    entry = window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    position = position_on_wire(window, slot)
    place = relative(window, slot)
    prologue = int(transfer["prologue"])
    exponent = exponent_ahead(window, slot)
    kind = packet_kind(window, slot)
    named, others = named_rank(window, slot), transfer["others"] != 0
    if LANE_BITS[kind] > 0:
        payload = memory[at + HEADER_BYTES : at + HEADER_BYTES + 4 * int(stream["elements"])]
        if place <= prologue:
            payload[:] = np.uint8(0)
            if place == 0:
                _fill_descriptor(window, transfer, payload.view(np.uint32))
            _fill_exponents(window, transfer, place, payload)
        elif transfer["kind"] == BLOCKS:
            _fill_block(window, slot, block_of(window, transfer, place - 1 - prologue), payload)
        else:
            chunk = block_of(window, transfer, place - 1 - prologue)
            _fill_words(transfer, chunk, payload.view(np.uint32))
    width = int(stream["window"])
    pack_header(
        memory,
        at,
        Header(
            msg_type=kind,
            to_one=1 if named >= 0 and not others else 0,
            size=int(stream["size"]),
            job_number=int(stream["job"]),
            tsi=position & TSI_MASK,
            version=version_of(position, width),
            but_one=1 if named >= 0 and others else 0,
            slot=slot_of(position, width),
            e0=exponent,
            e1=named if named >= 0 else UNKNOWN_EXPONENT,
        ),
    )


@compiled
def descriptor_agrees(window: Window, transfer: TransferRecord, received: Words) -> bool:
    """Whether every rank means this transfer; `received` in the machine's byte order."""
    stream = window.stream[0]
    workers = int(stream["workers"])
    agrees = True
    if names_ranks(workers, received.size):
        for index in range(workers * SIGNATURE_WORDS):
            agrees = agrees and received[index] == transfer["signature"][index % SIGNATURE_WORDS]
    else:
        for index in range(SIGNATURE_WORDS):
            agrees = (
                agrees and int(received[index]) == (int(transfer["signature"][index]) * workers) & 0xFFFFFFFF
            )
    return agrees


@compiled
def _flag_exact(window: Window, transfer: TransferRecord, chunk: int, exponent: int) -> None:
    """Note whether the exponent has its chunk exchanged exactly."""
    if exponent == EXACT_EXPONENT:
        bytes_at(transfer["flags"], int(transfer["chunks"]))[block_of(window, transfer, chunk)] = 1


@inlined
def take_result(window: Window, slot: int, exponent: int, memory: Bytes, at: int, descriptor: Words) -> bool:
    """Take the elements of the slot's result to where they belong.

    Args:
        window: of the stream.
        slot: of the result.
        exponent: that the packet brings.
        memory: where the packet lies.
        at: the byte where it begins.
        descriptor: of the chunk's length; takes a transfer's descriptor, in the machine's byte order.

    Returns:
        False when the descriptor shows that the ranks do not mean the same.
    """
    entry = window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    place = relative(window, slot)
    prologue = int(transfer["prologue"])
    payload = memory[at + HEADER_BYTES : at + result_bytes(window, memory, at)]
    if place == 0:
        copy_swapped(payload.view(np.uint32), descriptor)
        if not descriptor_agrees(window, transfer, descriptor):
            return False
    note_exponents(window, slot, exponent, payload)
    if place <= prologue:
        return True
    chunk = block_of(window, transfer, place - 1 - prologue)
    first, last = wanted_elements(window, transfer, chunk)
    if first == last or (transfer["kind"] == BLOCKS and entry["exponent"] == EXACT_EXPONENT):
        return True
    if read_msg_type(memory, at) == ABSENT:
        _take_nothing(window, slot, first, last)
    elif transfer["kind"] == WORDS:
        _take_words(window, slot, chunk, first, last, payload.view(np.uint32))
    else:
        _take_block(window, slot, chunk, first, last, read_e1(memory, at), payload)
    return True
