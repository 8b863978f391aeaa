"""The number that a probe carries, by which a worker proves that its address is its own.

The fields of a PROBE that mean nothing in it hold 63 bits, in the order of the wire. A switch sends a probe back as it came;
to a worker whose address does not count yet it sends a challenge: another number, which that worker has to send.
"""

from __future__ import annotations

import re
import secrets

import numpy as np
import numpy.typing as npt

from switchml.protocol.header import HEADER_BYTES, Header, build_header, parse_header
from switchml.protocol.header_access import pack_header, read_e0, read_e1, read_slot, read_tsi, read_version
from switchml.protocol.jit import compiled
from switchml.protocol.messages import PROBE

_BITS = 63
_BEFORE = 2  # bytes of the header, before the number
_TICKET = re.compile("[0-7][0-9a-f]{15}")


def new_secret() -> int:
    """A number that nobody guesses; not 0."""
    return secrets.randbits(_BITS) or 1


def ticket_of_secret(secret: int) -> str:
    """The secret as an offer's ticket says it."""
    return f"{secret:016x}"


def secret_of_ticket(ticket: str) -> int:
    """The way back.

    Raises:
        ValueError: the ticket names no secret.
    """
    if _TICKET.fullmatch(ticket) is None or (secret := int(ticket, 16)) == 0:
        raise ValueError("a ticket is a number of 63 bits in 16 hexadecimal digits")
    return secret


def probe_header(job: int, secret: int, challenge: int = 0) -> Header:
    """The header of a probe that carries `secret`; of a challenge where that is 1."""
    return Header(
        msg_type=PROBE,
        to_one=0,
        size=challenge,
        job_number=job,
        tsi=secret >> 31,
        version=(secret >> 30) & 1,
        but_one=0,
        slot=(secret >> 16) & 0x3FFF,
        e0=((secret >> 8) & 0xFF) - 128,
        e1=(secret & 0xFF) - 128,
    )


def number_on_the_wire(secret: int) -> int:
    """The 64 bits of a probe's header that carry `secret`, as P4 programs compare them."""
    return int.from_bytes(build_header(probe_header(0, secret))[_BEFORE:], "big")


def secret_on_the_wire(number: int) -> int:
    """The way back of `number_on_the_wire`."""
    header = parse_header(bytes(_BEFORE) + number.to_bytes(HEADER_BYTES - _BEFORE, "big"))
    upper = header.tsi << 31 | header.version << 30 | header.slot << 16
    return upper | (header.e0 + 128) << 8 | (header.e1 + 128)


_compiled_header = compiled(probe_header)


def answer_to_challenge(packet: bytes) -> bytes | None:
    """The probe that a challenge asks for; None where `packet` is none."""
    if len(packet) != HEADER_BYTES:
        return None
    header = parse_header(packet)
    return build_header(header._replace(size=0)) if (header.msg_type, header.size) == (PROBE, 1) else None


@compiled
def write_challenge(packet: npt.NDArray[np.uint8], at: int, job: int, secret: int) -> None:
    """Write a challenge at `packet[at:]`."""
    pack_header(packet, at, _compiled_header(job, secret, 1))


@compiled
def read_secret(packet: npt.NDArray[np.uint8], at: int) -> int:
    """The number in the probe at `packet[at:]`."""
    return (
        read_tsi(packet, at) << 31
        | read_version(packet, at) << 30
        | read_slot(packet, at) << 16
        | (read_e0(packet, at) + 128) << 8
        | (read_e1(packet, at) + 128)
    )
