"""The header's bytes, written down by hand, and its two codecs against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.protocol import header, header_access
from switchml.protocol.header import (
    FIELDS,
    HEADER_BYTES,
    Header,
    build_header,
    parse_header,
)

# As in the public P4 program: type 1, 256 elements; job 7; tsi; version 1, slot 0x1234; exponents -3 and 5.
EXAMPLES = [
    (bytes.fromhex("13 07 00000102 9234 fd 05"), Header(1, 0, 3, 7, 0x102, 1, 0, 0x1234, -3, 5)),
    (bytes.fromhex("11 00 00000000 0000 00 00"), Header(1, 0, 1, 0, 0, 0, 0, 0, 0, 0)),
    (bytes.fromhex("f7 ff ffffffff bfff 7f 80"), Header(15, 0, 7, 255, 2**32 - 1, 1, 0, 0x3FFF, 127, -128)),
    (bytes.fromhex("08 01 80000000 4001 ff fe"), Header(0, 1, 0, 1, 2**31, 0, 1, 1, -1, -2)),
]


def _values(field: header.Field) -> st.SearchStrategy[int]:
    return st.integers(*field.limits())


headers = st.builds(Header, *map(_values, FIELDS.values()))


@pytest.mark.parametrize(("data", "fields"), EXAMPLES)
def test_bytes_by_hand(data: bytes, fields: Header) -> None:
    assert len(data) == HEADER_BYTES == 10
    assert build_header(fields) == data
    assert parse_header(data) == fields


@given(headers)
def test_what_is_built_is_parsed(fields: Header) -> None:
    assert parse_header(build_header(fields)) == fields


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES + 20))
def test_what_is_parsed_is_built(data: bytes) -> None:
    assert build_header(parse_header(data)) == data[:HEADER_BYTES]


@given(headers, st.integers(0, 5))
def test_compiled_codec_agrees(fields: Header, at: int) -> None:
    memory = np.full(HEADER_BYTES + 10, 0xAA, np.uint8)
    header_access.pack_header(memory, at, fields)
    assert memory[at : at + HEADER_BYTES].tobytes() == build_header(fields)
    assert (np.delete(memory, range(at, at + HEADER_BYTES)) == 0xAA).all()
    assert _read(memory, at) == fields


def _read(memory: header_access.Bytes, at: int) -> Header:
    return Header(
        msg_type=header_access.read_msg_type(memory, at),
        to_one=header_access.read_to_one(memory, at),
        but_one=header_access.read_but_one(memory, at),
        size=header_access.read_size(memory, at),
        job_number=header_access.read_job(memory, at),
        tsi=header_access.read_tsi(memory, at),
        version=header_access.read_version(memory, at),
        slot=header_access.read_slot(memory, at),
        e0=header_access.read_e0(memory, at),
        e1=header_access.read_e1(memory, at),
    )


@given(headers, st.integers(-128, 127), st.integers(-128, 127))
def test_set_exponents_changes_nothing_else(fields: Header, e0: int, e1: int) -> None:
    memory = np.frombuffer(build_header(fields), np.uint8).copy()
    header_access.set_exponents(memory, 0, e0, e1)
    assert parse_header(memory) == fields._replace(e0=e0, e1=e1)


@given(headers, st.integers(0, 15), st.integers(0, 1), st.integers(0, 7))
def test_set_kind_changes_nothing_else(fields: Header, msg_type: int, to_one: int, size: int) -> None:
    memory = np.frombuffer(build_header(fields), np.uint8).copy()
    header_access.set_kind(memory, 0, msg_type, to_one, size)
    assert parse_header(memory) == fields._replace(msg_type=msg_type, to_one=to_one, size=size)


@given(headers)
def test_clear_but_one_changes_nothing_else(fields: Header) -> None:
    memory = np.frombuffer(build_header(fields), np.uint8).copy()
    header_access.clear_but_one(memory, 0)
    assert parse_header(memory) == fields._replace(but_one=0)


@pytest.mark.parametrize("length", range(HEADER_BYTES))
def test_too_few_bytes_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes are no header"):
        parse_header(bytes(length))


@pytest.mark.parametrize(
    ("name", "field"), FIELDS.items(), ids=lambda part: part if isinstance(part, str) else ""
)
def test_values_that_do_not_fit_are_refused(name: str, field: header.Field) -> None:
    low, high = field.limits()
    assert high - low == 2**field.bits - 1
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"{name} = {value} does not fit"):
            build_header(EXAMPLES[0][1]._replace(**{name: value}))
