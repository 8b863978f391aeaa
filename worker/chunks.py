"""From memory to packet and back: builds the packet a slot has to send and takes the result it gets. Window: worker/window.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.link.memory import array_at, bytes_at
from switchml.protocol.byteorder import copy_swapped
from switchml.protocol.header import HEADER_BYTES, Header
from switchml.protocol.header_access import pack_header, read_e1, read_msg_type, read_to_one
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import ABSENT, EXPONENTS, SUM
from switchml.protocol.numerics import EXACT_EXPONENT, UNKNOWN_EXPONENT
from switchml.protocol.slots import TSI_MASK, slot_of, version_of
from switchml.worker.kernels import bits_exponent, dequantize, quantize
from switchml.worker.window import BLOCKS, RING, WORDS, TransferRecord, Window, relative

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]

SIGNATURE_WORDS = 4


@inlined
def _floats(address: int, first: int, count: int) -> Any:
    return array_at(address + 4 * first, count, np.float32)


@inlined
def _words(address: int, first: int, count: int) -> Any:
    return array_at(address + 4 * first, count, np.uint32)


@compiled
def names_ranks(workers: int, elements: int) -> bool:
    """Whether a descriptor has room for the signature of every rank; otherwise it carries their sum."""
    return workers * SIGNATURE_WORDS <= elements


@compiled
def packet_kind(window: Window, slot: int) -> int:
    """Message type of the packet the slot sends: ABSENT where its elements are all 0."""
    place = relative(window, slot)
    entry = window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    if place == 0:
        return SUM
    chunk = place - 1 - int(transfer["prologue"])
    if chunk < 0:
        return EXPONENTS
    elements = int(window.stream[0]["elements"])
    begin, length = chunk * elements, _chunk_length(transfer, chunk, elements)
    if transfer["kind"] == BLOCKS:
        exact = entry["exponent"] == EXACT_EXPONENT
        empty = exact or _all_zero(_floats(transfer["source"], begin, length))
    else:
        first, last = _given(transfer, begin, length)
        empty = _all_zero(_words(transfer["source"], first - int(transfer["first"]), max(0, last - first)))
    return ABSENT if empty else SUM


@compiled
def packet_bytes(window: Window, slot: int) -> int:
    """Length of the packet the slot sends."""
    if packet_kind(window, slot) != SUM:
        return HEADER_BYTES
    return HEADER_BYTES + 4 * int(window.stream[0]["elements"])


@compiled
def _all_zero(values: Any) -> bool:
    for value in values:  # noqa: SIM110 - compiled, and the first one mostly ends it
        if value != 0:
            return False
    return True


@compiled
def _given(transfer: TransferRecord, begin: int, length: int) -> tuple[int, int]:
    """WORDS: first and one past the last of this rank's words among `length` from `begin`."""
    return max(begin, int(transfer["first"])), min(begin + length, int(transfer["last"]))


@compiled
def wanted_by(transfer: TransferRecord, chunk: int, elements: int) -> int:
    """The rank that alone wants the result of a chunk, or -1 where all do, or several."""
    part = int(transfer["part"])
    if part == 0:
        return -1
    begin = int(transfer["origin"]) + chunk * elements
    first, last = begin // part, (begin + _chunk_length(transfer, chunk, elements) - 1) // part
    return first if first == last else -1


@compiled
def _wanted(window: Window, transfer: TransferRecord, chunk: int) -> tuple[int, int]:
    """First and one past the last of the elements of a chunk whose sums this rank wants."""
    elements = int(window.stream[0]["elements"])
    begin = chunk * elements
    end = begin + _chunk_length(transfer, chunk, elements)
    part = int(transfer["part"])
    if part == 0:
        return begin, end
    mine = int(window.stream[0]["rank"]) * part - int(transfer["origin"])
    first = min(max(begin, mine), end)
    return first, max(first, min(end, mine + part))


@compiled
def result_fits(window: Window, slot: int, memory: Bytes, at: int, length: int) -> bool:
    """Whether a packet of a result's kind is one that the slot can get."""
    kind = read_msg_type(memory, at)
    place = relative(window, slot)
    transfer = window.transfers[window.slots[slot]["transfer"] % RING]
    if 1 <= place <= transfer["prologue"]:
        return kind == EXPONENTS and length == HEADER_BYTES
    if kind == SUM:
        return length == HEADER_BYTES + 4 * int(window.stream[0]["elements"])
    return kind == ABSENT and place > 0 and length == HEADER_BYTES and not _is_kept_back(window, memory, at)


@compiled
def _is_kept_back(window: Window, memory: Bytes, at: int) -> bool:
    """Whether an ABSENT result is another rank's, though this one wants it."""
    return read_to_one(memory, at) != 0 and (read_e1(memory, at) & 0xFF) == window.stream[0]["rank"]


@compiled
def result_bytes(window: Window, memory: Bytes, at: int, length: int) -> int:
    """What of a result is for this rank: of another's elements, which shared memory shows to all, the header."""
    if read_to_one(memory, at) != 0 and (read_e1(memory, at) & 0xFF) != window.stream[0]["rank"]:
        return HEADER_BYTES
    return length


@compiled
def _fill_descriptor(window: Window, transfer: TransferRecord, payload: Words) -> None:
    stream = window.stream[0]
    payload[:] = np.uint32(0)
    first = SIGNATURE_WORDS * int(stream["rank"]) if names_ranks(int(stream["workers"]), payload.size) else 0
    copy_swapped(transfer["signature"], payload[first : first + SIGNATURE_WORDS])


@compiled
def _fill_words(transfer: TransferRecord, chunk: int, payload: Words) -> None:
    """This rank's words of the chunk, zeros elsewhere."""
    begin = chunk * payload.size
    first, last = _given(transfer, begin, payload.size)
    payload[: first - begin] = np.uint32(0)
    copy_swapped(
        _words(transfer["source"], first - int(transfer["first"]), last - first),
        payload[first - begin : last - begin],
    )
    payload[last - begin :] = np.uint32(0)


@compiled
def _chunk_length(transfer: TransferRecord, chunk: int, elements: int) -> int:
    return min(elements, int(transfer["count"]) - chunk * elements)


@compiled
def build_packet(window: Window, slot: int, memory: Bytes, at: int) -> None:
    """Write the slot's packet, `packet_bytes` long, at `memory[at:]`. The same bytes every time it is called for a position."""
    stream = window.stream[0]
    entry = window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    elements = int(stream["elements"])
    position = int(entry["position"])
    place = relative(window, slot)
    prologue = int(transfer["prologue"])
    exponent = UNKNOWN_EXPONENT
    blocks = transfer["kind"] == BLOCKS
    if blocks and 1 <= place <= transfer["chunks"]:
        ahead = place - 1
        exponent = bits_exponent(
            _words(transfer["source"], ahead * elements, _chunk_length(transfer, ahead, elements))
        )
    kind = packet_kind(window, slot)
    chunk = place - 1 - prologue
    wanted = wanted_by(transfer, chunk, elements) if place > prologue else -1
    if kind == SUM:
        payload = memory[at + HEADER_BYTES : at + HEADER_BYTES + 4 * elements].view(np.uint32)
        if place == 0:
            _fill_descriptor(window, transfer, payload)
        elif blocks:
            block = _floats(transfer["source"], chunk * elements, _chunk_length(transfer, chunk, elements))
            quantize(block, payload, int(entry["exponent"]), int(stream["workers"]))
        else:
            _fill_words(transfer, chunk, payload)
    width = int(stream["window"])
    pack_header(
        memory,
        at,
        Header(
            msg_type=kind,
            to_one=1 if wanted >= 0 else 0,
            size=int(stream["size"]),
            job_number=int(stream["job"]),
            tsi=position & TSI_MASK,
            version=version_of(position, width),
            unused=0,
            slot=slot_of(position, width),
            e0=exponent,
            e1=wanted if wanted >= 0 else UNKNOWN_EXPONENT,
        ),
    )


@compiled
def _descriptor_agrees(window: Window, transfer: TransferRecord, received: Words) -> bool:
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
    stream = window.stream[0]
    entry = window.slots[slot]
    transfer = window.transfers[entry["transfer"] % RING]
    elements = int(stream["elements"])
    place = relative(window, slot)
    prologue = int(transfer["prologue"])
    if transfer["kind"] == BLOCKS and exponent == EXACT_EXPONENT and 1 <= place <= transfer["chunks"]:
        bytes_at(transfer["flags"], int(transfer["chunks"]))[place - 1] = 1
    if 1 <= place <= prologue:
        return True
    payload = memory[at + HEADER_BYTES : at + HEADER_BYTES + 4 * elements].view(np.uint32)
    if place == 0:
        copy_swapped(payload, descriptor)
        return _descriptor_agrees(window, transfer, descriptor)
    chunk = place - 1 - prologue
    first, last = _wanted(window, transfer, chunk)
    if first == last or (transfer["kind"] == BLOCKS and entry["exponent"] == EXACT_EXPONENT):
        return True
    skipped = max(0, int(stream["rank"]) * int(transfer["part"]) - int(transfer["origin"]))
    mine = payload[first - chunk * elements : last - chunk * elements]
    if read_msg_type(memory, at) == ABSENT:
        _words(transfer["destination"], first - skipped, last - first)[:] = np.uint32(0)
    elif transfer["kind"] == WORDS:
        copy_swapped(mine, _words(transfer["destination"], first - skipped, last - first))
    else:
        out = _floats(transfer["destination"], first - skipped, last - first)
        dequantize(mine, out, int(entry["exponent"]), int(stream["workers"]))
    return True
