"""Binary strings: the examples of the specification (section 8.4), and round trips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.bytestrings import decode, decode_signed, encode, encode_signed
from switchml.p4runtime.refusals import RuntimeRequestError


@pytest.mark.parametrize(
    ("width", "data", "value"),
    [
        (8, b"\x63", 99),
        (16, b"\x00\x63", 99),
        (16, b"\x30\x64", 12388),
        (16, b"\x00\x30\x64", 12388),
        (12, b"\x00\x00\x63", 99),
        (1, b"\x01", 1),
    ],
)
def test_takes_any_form_that_fits(width: int, data: bytes, value: int) -> None:
    assert decode(data, width, "x") == value


@pytest.mark.parametrize(
    ("width", "data"),
    [
        (8, b"\x01\x63"),
        (8, b""),
        (16, b"\x01\x00\x63"),
        (12, b"\x10\x63"),
        (12, b"\x01\x00\x63"),
        (12, b"\x00\x40\x63"),
    ],
)
def test_refuses_what_does_not_fit(width: int, data: bytes) -> None:
    with pytest.raises(RuntimeRequestError) as refusal:
        decode(data, width, "x")
    assert refusal.value.code == "OUT_OF_RANGE"


@pytest.mark.parametrize(
    ("width", "data", "value"),
    [
        (8, b"\x63", 99),
        (8, b"\x9d", -99),
        (8, b"\xff\x9d", -99),
        (12, b"\xfd\x1d", -739),
        (16, b"\x00\x00", 0),
    ],
)
def test_takes_any_signed_form_that_fits(width: int, data: bytes, value: int) -> None:
    assert decode_signed(data, width, "x") == value % (1 << width)


@pytest.mark.parametrize(("width", "data"), [(8, b"\x00\x9d"), (12, b"\x8d\x1d"), (16, b"")])
def test_refuses_signed_values_that_do_not_fit(width: int, data: bytes) -> None:
    with pytest.raises(RuntimeRequestError) as refusal:
        decode_signed(data, width, "x")
    assert refusal.value.code == "OUT_OF_RANGE"


@given(st.data(), st.integers(1, 600))
def test_unsigned_values_come_back(data: st.DataObject, width: int) -> None:
    value = data.draw(st.integers(0, (1 << width) - 1))
    string = encode(value)
    assert decode(string, width, "x") == value
    assert decode(b"\x00\x00" + string, width, "x") == value
    assert len(string) == 1 or string[0] != 0


@given(st.data(), st.integers(1, 600))
def test_signed_values_come_back(data: st.DataObject, width: int) -> None:
    value = data.draw(st.integers(0, (1 << width) - 1))
    string = encode_signed(value, width)
    assert decode_signed(string, width, "x") == value
    if len(string) > 1:  # no shorter string means the same
        assert int.from_bytes(string[1:], "big", signed=True) != int.from_bytes(string, "big", signed=True)
