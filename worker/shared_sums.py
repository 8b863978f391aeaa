"""From memory into the sums of a shared slot and back: what chunks.py does with packets, without packets.

The numbers are the same to the bit. Sums are in the machine's byte order, so nothing is turned around; and what no rank gives, is
not added.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.aggregation.aggregate import add_lanes, emit_lanes, shift_of, take_lanes
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import ABSENT, LANE_BITS
from switchml.protocol.numerics import EXACT_EXPONENT
from switchml.worker.chunks import (
    block_of,
    chunk_length,
    descriptor_agrees,
    floats_at,
    given_words,
    note_exponents,
    skipped_before,
    wanted_elements,
    words_at,
)
from switchml.worker.kernels import (
    dequantize_from,
    dequantize_lanes,
    quantize_into,
    quantize_lanes,
    subtract_lanes,
)
from switchml.worker.window import (
    BLOCKS,
    RING,
    SIGNATURE_WORDS,
    TransferRecord,
    Window,
    chunk_elements,
    names_ranks,
    relative,
    signature_words,
)

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Sums = npt.NDArray[np.int32]


@inlined
def _put(values: Any, sums: Words, adds: bool) -> None:
    if adds:
        for i in range(values.size):
            sums[i] = np.uint32((int(sums[i]) + int(values[i])) & 0xFFFFFFFF)
    else:
        for i in range(values.size):
            sums[i] = values[i]


@inlined
def _give_descriptor(window: Window, transfer: TransferRecord, sums: Words, adds: bool) -> None:
    stream = window.stream[0]
    named = names_ranks(int(stream["workers"]), sums.size)
    if not adds:
        sums[: signature_words(int(stream["workers"]), sums.size)] = np.uint32(0)
    first = SIGNATURE_WORDS * int(stream["rank"]) if named else 0
    _put(transfer["signature"], sums[first : first + SIGNATURE_WORDS], True)


@inlined
def _give_words(transfer: TransferRecord, chunk: int, elements: int, sums: Words, adds: bool) -> None:
    begin = chunk * elements
    length = chunk_length(transfer, chunk, elements)
    first, last = given_words(transfer, begin, length)
    if not adds:
        sums[: first - begin] = np.uint32(0)
        sums[last - begin : length] = np.uint32(0)
    values = words_at(transfer["source"], first - int(transfer["first"]), last - first)
    _put(values, sums[first - begin : last - begin], adds)


@inlined
def _give_block(window: Window, slot: int, chunk: int, sums: Words, lanes: Bytes, adds: bool) -> None:
    stream, entry = window.stream[0], window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    elements, exponent = chunk_elements(window, BLOCKS), int(entry["exponent"])
    block = floats_at(transfer["source"], chunk * elements, chunk_length(transfer, chunk, elements))
    bits = LANE_BITS[stream["block_kind"]]
    values = sums.view(np.int32)
    if bits == 32:
        quantize_into(block, values, exponent, int(stream["workers"]), adds)
        return
    first, seed = int(transfer["first"]) + chunk * elements, int(transfer["seed"])
    if bits == 16:
        wide = lanes.view(np.uint16)
        quantize_lanes(block, wide, exponent, seed, first)
        if adds:
            add_lanes(wide, 0, values)
        else:
            take_lanes(wide, 0, values)
    else:
        quantize_lanes(block, lanes, exponent, seed, first)
        if adds:
            add_lanes(lanes, 0, values)
        else:
            take_lanes(lanes, 0, values)


@compiled
def give_elements(window: Window, slot: int, sums: Words, lanes: Bytes, adds: bool) -> None:
    """Bring the elements of the slot's chunk into its sums. There are some: `packet_kind` says neither ABSENT nor EXPONENTS.

    Args:
        window: of the stream.
        slot: of it.
        sums: of the chunk's copy, as many as a chunk of its kind has elements.
        lanes: a packet's payload, for narrow wires.
        adds: False for the first that come: what the sums hold is of an earlier chunk.
    """
    transfer = window.transfers[window.slots[slot]["transfer"] % RING]
    place = relative(window, slot)
    chunk = block_of(window, transfer, place - 1 - int(transfer["prologue"]))
    if place == 0:
        _give_descriptor(window, transfer, sums, adds)
    elif transfer["kind"] == BLOCKS:
        _give_block(window, slot, chunk, sums, lanes, adds)
    else:
        _give_words(transfer, chunk, int(window.stream[0]["elements"]), sums, adds)


@inlined
def _take_block(
    window: Window, slot: int, chunk: int, first: int, last: int, sums: Words, lanes: Bytes
) -> None:
    """The way back of `_give_block`, of the elements first to last - 1."""
    stream, entry = window.stream[0], window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    elements, exponent = chunk_elements(window, BLOCKS), int(entry["exponent"])
    begin = chunk * elements
    out = floats_at(transfer["destination"], first - skipped_before(window, transfer), last - first)
    bits = LANE_BITS[stream["block_kind"]]
    values = sums.view(np.int32)
    if bits == 32:
        dequantize_from(values[first - begin : last - begin], out, exponent, int(stream["workers"]))
        return
    if transfer["feedback"] != 0:
        source = floats_at(transfer["source"], begin, chunk_length(transfer, chunk, elements))
        subtract_lanes(source, bits, exponent, int(transfer["seed"]), int(transfer["first"]) + begin)
    shift = shift_of(values, bits)
    if bits == 16:
        wide = lanes.view(np.uint16)
        emit_lanes(values, wide, shift)
        dequantize_lanes(wide[first - begin : last - begin], out, exponent, shift)
    else:
        emit_lanes(values, lanes, shift)
        dequantize_lanes(lanes[first - begin : last - begin], out, exponent, shift)


@compiled
def take_elements(
    window: Window, slot: int, exponent: int, kind: int, sums: Words, lanes: Bytes, descriptor: Words
) -> bool:
    """Take the elements of the slot's complete chunk to where they belong.

    Args:
        window: of the stream.
        slot: of it.
        exponent: `e0` of the chunk's copy.
        kind: of the chunk's copy: ABSENT where nobody has given elements.
        sums: of the copy, as many as a chunk of its kind has elements.
        lanes: as of `give_elements`.
        descriptor: takes a transfer's descriptor.

    Returns:
        False when the descriptor shows that the ranks do not mean the same.
    """
    entry = window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    place, prologue = relative(window, slot), int(transfer["prologue"])
    if place == 0:
        _put(sums[: signature_words(int(window.stream[0]["workers"]), sums.size)], descriptor, False)
        return descriptor_agrees(window, transfer, descriptor)
    note_exponents(window, slot, exponent, sums.view(np.uint8))
    if place <= prologue:
        return True
    chunk = block_of(window, transfer, place - 1 - prologue)
    first, last = wanted_elements(window, transfer, chunk)
    if first == last or (transfer["kind"] == BLOCKS and entry["exponent"] == EXACT_EXPONENT):
        return True
    if transfer["kind"] == BLOCKS and kind != ABSENT:
        _take_block(window, slot, chunk, first, last, sums, lanes)
        return True
    out = words_at(transfer["destination"], first - skipped_before(window, transfer), last - first)
    if kind == ABSENT:
        out[:] = np.uint32(0)
    else:
        begin = chunk * int(window.stream[0]["elements"])
        _put(sums[first - begin : last - begin], out, False)
    return True
