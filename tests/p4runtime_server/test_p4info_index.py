"""P4Info by id, and P4Data of every type that a register or digest may have."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.data_types import DataType, data_type, encode_all
from switchml.p4runtime.entries import MatchKind
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.p4runtime.schema import Schema
from switchml.p4runtime.stubs import p4data_pb2, p4info_pb2, p4types_pb2


def test_objects_by_id_and_name(info: Any) -> None:
    index = Schema(info)
    table = index.tables.get(33554433)
    assert table is index.tables.by_name["Ingress.exact"]
    assert (table.counter, table.meter, table.idle_timeout, table.const_default) == (
        318767105,
        352321537,
        True,
        False,
    )
    assert not table.needs_priority
    mixed = index.tables.by_name["Ingress.mixed"]
    assert mixed.needs_priority
    assert mixed.const_default
    assert [field.kind for field in mixed.fields.values()] == [
        MatchKind.LPM,
        MatchKind.TERNARY,
        MatchKind.RANGE,
        MatchKind.OPTIONAL,
    ]
    assert index.tables.by_name["Ingress.selected"].profile is index.profiles.get(285212673)
    assert len(index.tables.select(0)) == 5
    assert [field.name for field in index.packet_in] == ["ingress_port", "reason"]
    for wrong, code in ((0, "INVALID_ARGUMENT"), (5, "NOT_FOUND")):
        with pytest.raises(RuntimeRequestError) as refusal:
            index.tables.get(wrong)
        assert refusal.value.code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("actions { preamble { name: 'x' } }", "INVALID_ARGUMENT"),
        (
            "actions { preamble { id: 1 name: 'x' } } actions { preamble { id: 1 name: 'y' } }",
            "INVALID_ARGUMENT",
        ),
        (
            "tables { preamble { id: 1 name: 'x' } implementation_id: 9 }",
            "INVALID_ARGUMENT",
        ),
        (
            "tables { preamble { id: 1 name: 'x' } action_refs { id: 9 } }",
            "INVALID_ARGUMENT",
        ),
        (  # translated to a string
            "actions { preamble { id: 1 name: 'x' } params { id: 1 name: 'p' } }",
            "UNIMPLEMENTED",
        ),
        (
            "tables { preamble { id: 1 name: 'x' } match_fields { id: 1 bitwidth: 8 other_match_type: 'y' } }",
            "UNIMPLEMENTED",
        ),
        (
            "registers { preamble { id: 1 name: 'x' } type_spec { struct { name: 'nowhere' } } }",
            "INVALID_ARGUMENT",
        ),
        (
            "registers { preamble { id: 1 name: 'x' } type_spec { header_union { name: 'u' } } }",
            "UNIMPLEMENTED",
        ),
    ],
)
def test_what_can_not_be_served_is_refused(text: str, code: str) -> None:
    with pytest.raises(RuntimeRequestError) as refusal:
        Schema(text_format.Parse(text, p4info_pb2.P4Info()))
    assert refusal.value.code == code


TYPES = text_format.Parse(
    """
    structs { key: "s" value {
      members { name: "a" type_spec { bitstring { bit { bitwidth: 9 } } } }
      members { name: "b" type_spec { header { name: "h" } } }
      members { name: "c" type_spec { bool { } } }
    } }
    headers { key: "h" value {
      members { name: "x" type_spec { bit { bitwidth: 4 } } }
      members { name: "y" type_spec { int { bitwidth: 12 } } }
    } }
    enums { key: "e" value { members { name: "ONE" } members { name: "TWO" } } }
    serializable_enums { key: "v" value { underlying_type { bitwidth: 8 } } }
    new_types { key: "n" value { original_type { bitstring { bit { bitwidth: 7 } } } } }
    new_types { key: "t" value { translated_type { uri: "p" sdn_bitwidth: 32 } } }
    new_types { key: "z" value { translated_type { uri: "p" sdn_string { } } } }
    error { members: "NoError" members: "Other" }
    """,
    p4types_pb2.P4TypeInfo(),
)
SPECS = {  # type, and the width of each leaf; 1 for two values
    "bitstring { bit { bitwidth: 300 } }": [300],
    "bitstring { int { bitwidth: 13 } }": [13],
    "bool { }": [1],
    "struct { name: 's' }": [9, 4, 12, 1],
    "header { name: 'h' }": [4, 12],
    "enum { name: 'e' }": [1],
    "error { }": [1],
    "serializable_enum { name: 'v' }": [8],
    "new_type { name: 'n' }": [7],
    "new_type { name: 't' }": [32],
    "tuple { members { bool { } } members { new_type { name: 'n' } } }": [1, 7],
    "tuple { }": [],
}


def type_of(text: str) -> DataType:
    return data_type(text_format.Parse(text, p4types_pb2.P4DataTypeSpec()), TYPES)


@given(st.data(), st.sampled_from(list(SPECS)))
def test_data_comes_back(data: st.DataObject, spec: str) -> None:
    kind = type_of(spec)
    values = [data.draw(st.integers(0, (1 << width) - 1)) for width in SPECS[spec]]
    assert kind.leaves == len(values)
    message = p4data_pb2.P4Data()
    encode_all(kind, values, message)
    received = p4data_pb2.P4Data.FromString(message.SerializeToString())
    assert kind.decode(received, "x") == values
    with pytest.raises(RuntimeRequestError):
        encode_all(kind, [*values, 0], p4data_pb2.P4Data())


@pytest.mark.parametrize(
    ("spec", "data", "code"),
    [
        ("bool { }", 'bitstring: "\\1"', "INVALID_ARGUMENT"),
        ("bool { }", "", "INVALID_ARGUMENT"),
        ("enum { name: 'e' }", "enum: 'THREE'", "INVALID_ARGUMENT"),
        ("header { name: 'h' }", "header { bitstrings: '\\1' }", "INVALID_ARGUMENT"),
        ("header { name: 'h' }", "header { bitstrings: '\\x10' bitstrings: '\\1' }", "OUT_OF_RANGE"),
        ("struct { name: 's' }", "struct { members { bool: true } }", "INVALID_ARGUMENT"),
        ("new_type { name: 'n' }", "bitstring: '\\x80'", "OUT_OF_RANGE"),
    ],
)
def test_other_data_is_refused(spec: str, data: str, code: str) -> None:
    with pytest.raises(RuntimeRequestError) as refusal:
        type_of(spec).decode(text_format.Parse(data, p4data_pb2.P4Data()), "x")
    assert refusal.value.code == code


@pytest.mark.parametrize("spec", ["new_type { name: 'z' }", "bitstring { varbit { } }", "header_stack { }"])
def test_unsupported_types(spec: str) -> None:
    with pytest.raises(RuntimeRequestError) as refusal:
        type_of(spec)
    assert refusal.value.code == "UNIMPLEMENTED"
