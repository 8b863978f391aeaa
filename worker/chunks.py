"""From memory to packet and back: builds the packet a slot has to send and takes the result it gets. Window: worker/window.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.link.memory import array_at, bytes_at
from switchml.protocol.byteorder import copy_swapped
from switchml.protocol.header import HEADER_BYTES, Header
from switchml.protocol.header_access import pack_header
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.messages import EXPONENTS, SUM
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
def packet_bytes(window: Window, slot: int) -> int:
    """Length of the packet the slot sends and of its result."""
    place = relative(window, slot)
    transfer = window.transfers[window.slots[slot]["transfer"] % RING]
    if 1 <= place <= transfer["prologue"]:
        return HEADER_BYTES
    return HEADER_BYTES + 4 * int(window.stream[0]["elements"])


@compiled
def _fill_descriptor(window: Window, transfer: TransferRecord, payload: Words) -> None:
    stream = window.stream[0]
    payload[:] = np.uint32(0)
    first = SIGNATURE_WORDS * int(stream["rank"]) if names_ranks(int(stream["workers"]), payload.size) else 0
    copy_swapped(transfer["signature"], payload[first : first + SIGNATURE_WORDS])


@compiled
def _fill_words(transfer: TransferRecord, chunk: int, payload: Words) -> None:
    """This rank's words of the chunk, zeros elsewhere."""
    elements = payload.size
    begin = chunk * elements
    first = max(begin, int(transfer["first"]))
    last = min(begin + elements, int(transfer["last"]))
    if last <= first:
        payload[:] = np.uint32(0)
        return
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
    kind = EXPONENTS if 1 <= place <= prologue else SUM
    if kind == SUM:
        payload = memory[at + HEADER_BYTES : at + HEADER_BYTES + 4 * elements].view(np.uint32)
        chunk = place - 1 - prologue
        if place == 0:
            _fill_descriptor(window, transfer, payload)
        elif blocks and entry["exponent"] == EXACT_EXPONENT:
            payload[:] = np.uint32(0)
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
            reserved=0,
            size=int(stream["size"]),
            job_number=int(stream["job"]),
            tsi=position & TSI_MASK,
            version=version_of(position, width),
            unused=0,
            slot=slot_of(position, width),
            e0=exponent,
            e1=UNKNOWN_EXPONENT,
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
    length = _chunk_length(transfer, chunk, elements)
    if transfer["kind"] == WORDS:
        copy_swapped(payload, _words(transfer["destination"], chunk * elements, length))
    elif entry["exponent"] != EXACT_EXPONENT:
        out = _floats(transfer["destination"], chunk * elements, length)
        dequantize(payload, out, int(entry["exponent"]), int(stream["workers"]))
    return True
