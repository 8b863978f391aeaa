"""The number in a probe, and its forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.protocol.header import HEADER_BYTES, Header, build_header, parse_header
from switchml.protocol.messages import PROBE, SUM
from switchml.protocol.probes import (
    answer_to_challenge,
    new_secret,
    number_on_the_wire,
    probe_header,
    read_secret,
    secret_of_ticket,
    secret_on_the_wire,
    ticket_of_secret,
    write_challenge,
)

SECRETS = st.integers(1, (1 << 63) - 1)


@given(SECRETS)
def test_a_secret_comes_back_from_a_packet_and_from_a_ticket(secret: int) -> None:
    packet = build_header(probe_header(7, secret))
    assert read_secret(np.frombuffer(packet, np.uint8), 0) == secret
    assert parse_header(packet)._replace(tsi=0, version=0, slot=0, e0=0, e1=0) == Header(PROBE, job_number=7)
    assert secret_of_ticket(ticket_of_secret(secret)) == secret
    assert secret_on_the_wire(number_on_the_wire(secret)) == secret
    assert packet[2:] == number_on_the_wire(secret).to_bytes(8, "big")


@given(SECRETS)
def test_a_challenge_is_answered_by_the_probe_with_its_number(secret: int) -> None:
    memory = np.zeros(HEADER_BYTES + 5, np.uint8)
    write_challenge(memory, 3, 7, secret)
    challenge = memory[3 : 3 + HEADER_BYTES].tobytes()
    assert answer_to_challenge(challenge) == build_header(probe_header(7, secret))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(HEADER_BYTES),
        build_header(probe_header(7, 1)),
        build_header(Header(SUM, size=1)),
        bytes(100),
    ],
)
def test_what_is_no_challenge(packet: bytes) -> None:
    assert answer_to_challenge(packet) is None


@pytest.mark.parametrize(
    "ticket", ["", "x", "1", "0" * 16, "f" * 16, "00000000000000Ff", " " * 15 + "1", "1" * 40]
)
def test_what_is_no_ticket(ticket: str) -> None:
    with pytest.raises(ValueError, match="63 bits"):
        secret_of_ticket(ticket)


def test_secrets_differ() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
