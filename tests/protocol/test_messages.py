"""Message types and payload sizes."""

from __future__ import annotations

import pytest

from switchml.protocol import messages
from switchml.protocol.messages import MESSAGE_TYPES, PAYLOAD_SIZES, size_code


def test_sizes_are_those_of_the_public_program_and_four_more() -> None:
    assert [size.payload for size in PAYLOAD_SIZES] == [128, 256, 512, 1024, 2048, 4096, 8192, 16384]
    assert [size.payload for size in PAYLOAD_SIZES if size.hardware] == [128, 256, 512, 1024]


@pytest.mark.parametrize("size", PAYLOAD_SIZES, ids=str)
def test_size_code_is_the_inverse(size: messages.PayloadSize) -> None:
    assert size_code(size.payload) == size.code


@pytest.mark.parametrize("payload", [-1, 0, 1, 64, 1000, 1023, 32768])
def test_other_payloads_are_refused_with_the_choices(payload: int) -> None:
    with pytest.raises(ValueError, match=f"{payload} bytes is none of 128, 256, .*16384"):
        size_code(payload)


def test_message_codes_are_distinct_and_fit_the_field() -> None:
    codes = [kind.code for kind in MESSAGE_TYPES]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 16 for code in codes)
    assert (messages.SUM, messages.EXPONENTS, messages.PROBE) == (1, 2, 3)


def test_ports_are_those_of_the_public_program() -> None:
    assert (messages.UDP_PORT_FIRST, messages.UDP_PORT_LAST) == (0xBEE0, 0xBEEF)
