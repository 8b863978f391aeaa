"""The header's bytes, written down by hand, and its four codecs against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.protocol import header
from switchml.protocol.header import (
    FIELDS,
    HEADER_BYTES,
    HEADER_DTYPE,
    Header,
    build_header,
    pack_header,
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
    low = -(1 << (field.bits - 1)) if field.signed else 0
    return st.integers(low, low + (1 << field.bits) - 1)


headers = st.builds(Header, *map(_values, FIELDS))


@pytest.mark.parametrize(("data", "fields"), EXAMPLES)
def test_bytes_by_hand(data: bytes, fields: Header) -> None:
    assert len(data) == HEADER_BYTES == HEADER_DTYPE.itemsize == 10
    assert build_header(fields) == data
    assert parse_header(data) == fields


def test_fields_and_header_have_the_same_names_in_the_same_order() -> None:
    assert tuple(field.name for field in FIELDS) == Header._fields


@given(headers)
def test_what_is_built_is_parsed(fields: Header) -> None:
    assert parse_header(build_header(fields)) == fields


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES + 20))
def test_what_is_parsed_is_built(data: bytes) -> None:
    assert build_header(parse_header(data)) == data[:HEADER_BYTES]


@given(headers, st.integers(0, 5))
def test_compiled_codec_agrees(fields: Header, at: int) -> None:
    fields = fields._replace(reserved=0, unused=0)
    memory = np.full(HEADER_BYTES + 10, 0xAA, np.uint8)
    pack_header(
        memory,
        at,
        fields.msg_type,
        fields.size,
        fields.job_number,
        fields.tsi,
        fields.version,
        fields.slot,
        fields.e0,
        fields.e1,
    )
    assert memory[at : at + HEADER_BYTES].tobytes() == build_header(fields)
    assert (np.delete(memory, range(at, at + HEADER_BYTES)) == 0xAA).all()
    assert _read(memory, at) == fields
    assert not header.reserved_bits_set(memory, at)


def _read(memory: header.Bytes, at: int) -> Header:
    return Header(
        header.read_msg_type(memory, at), 0, header.read_size(memory, at),
        header.read_job(memory, at), header.read_tsi(memory, at),
        header.read_version(memory, at), 0, header.read_slot(memory, at),
        header.read_e0(memory, at), header.read_e1(memory, at),
    )  # fmt: skip


@given(headers)
def test_numpy_dtype_agrees(fields: Header) -> None:
    row = np.frombuffer(build_header(fields), HEADER_DTYPE)[0]
    assert int(row["kind"]) == fields.msg_type << 4 | fields.reserved << 3 | fields.size
    assert int(row["pool_index"]) == fields.version << 15 | fields.unused << 14 | fields.slot
    assert (int(row["job_number"]), int(row["tsi"])) == (fields.job_number, fields.tsi)
    assert (int(row["e0"]), int(row["e1"])) == (fields.e0, fields.e1)


@given(headers)
def test_reserved_bits_are_noticed(fields: Header) -> None:
    memory = np.frombuffer(build_header(fields), np.uint8)
    assert header.reserved_bits_set(memory, 0) == bool(fields.reserved or fields.unused)


@given(headers, st.integers(-128, 127), st.integers(-128, 127))
def test_set_exponents_changes_nothing_else(fields: Header, e0: int, e1: int) -> None:
    memory = np.frombuffer(build_header(fields), np.uint8).copy()
    header.set_exponents(memory, 0, e0, e1)
    assert parse_header(memory) == fields._replace(e0=e0, e1=e1)


@pytest.mark.parametrize("length", range(HEADER_BYTES))
def test_too_few_bytes_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes are no header"):
        parse_header(bytes(length))


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_values_that_do_not_fit_are_refused(field: header.Field) -> None:
    low = -(1 << (field.bits - 1)) if field.signed else 0
    for value in (low - 1, low + (1 << field.bits)):
        with pytest.raises(ValueError, match=f"{field.name} = {value} does not fit"):
            build_header(EXAMPLES[0][1]._replace(**{field.name: value}))
