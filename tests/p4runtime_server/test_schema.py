"""P4Info by id and by name, entries in its terms, and P4Data of every type that a register or digest may have."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from switchml.p4runtime.codec import entry_entity, key_entity, parse_digests, parse_entry
from switchml.p4runtime.data_types import DataType, data_type, encode_all
from switchml.p4runtime.entries import ActionCall, GroupRef, Match, MatchKind, MemberRef, TableEntry
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.p4runtime.schema import Schema
from switchml.p4runtime.stubs import p4data_pb2, p4info_pb2, p4runtime_pb2, p4types_pb2


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


def test_names_actions_and_defaults(info: Any) -> None:
    info.tables[0].initial_default_action.action_id = 16777217
    info.tables[0].initial_default_action.arguments.add(param_id=1, value=b"\x05")
    schema = Schema(info)
    assert schema.tables.named("Ingress.exact").default == ActionCall("Ingress.forward", (5,))
    assert schema.tables.named("Ingress.mixed").default == ActionCall("NoAction")
    assert schema.tables.named("Ingress.constant").default == ActionCall("Ingress.forward")
    assert schema.tables.named("Ingress.mixed").size == 64
    assert schema.digests.named("learn_t").fields == ("mac", "port")
    forward = schema.actions.named("Ingress.forward")
    assert forward.call({"mac": 7, "port": 3}) == ActionCall("Ingress.forward", (3, 7))
    assert forward.arguments(ActionCall("Ingress.forward", (3, 7))) == {"port": 3, "mac": 7}
    for wrong in ({"port": 3}, {"port": 3, "mac": 7, "more": 1}):
        with pytest.raises(RuntimeRequestError, match="takes port, mac, not"):
            forward.call(wrong)
    with pytest.raises(RuntimeRequestError, match="no table Ingress"):
        schema.tables.named("Ingress.other")
    with pytest.raises(RuntimeRequestError, match="no serialised P4Info"):
        Schema.parse(b"\xff")


def test_a_controller_reads_the_entry_it_wrote(info: Any) -> None:
    schema = Schema(info)
    key = {
        "hdr.h.l": Match(MatchKind.LPM, 0x0A000000, 8),
        "hdr.h.t": Match(MatchKind.TERNARY, 0x0100, 0xFF00),
        "hdr.h.r": Match(MatchKind.RANGE, 3, 9),
        "hdr.h.o": Match(MatchKind.OPTIONAL, 4),
    }
    entry = TableEntry(key, ActionCall("Ingress.forward", (3, 7)), priority=11)
    message = entry_entity(schema, "Ingress.mixed", entry).table_entry
    assert parse_entry(schema, message) == ("Ingress.mixed", entry)
    named = key_entity(schema, "Ingress.mixed", key, 11).table_entry
    assert not named.HasField("action")
    named.action.CopyFrom(message.action)
    assert named == message


def test_entries_of_a_selector_name_members_and_groups(info: Any) -> None:
    schema = Schema(info)
    key = {"hdr.h.a": Match(MatchKind.EXACT, 1)}
    message = key_entity(schema, "Ingress.selected", key).table_entry
    message.action.action_profile_member_id = 4
    assert parse_entry(schema, message)[1].action == MemberRef(4)
    message.action.action_profile_group_id = 5
    assert parse_entry(schema, message)[1].action == GroupRef(5)
    message.action.action_profile_action_set.SetInParent()
    with pytest.raises(RuntimeRequestError) as refusal:
        parse_entry(schema, message)
    assert refusal.value.code == "UNIMPLEMENTED"


def test_digests_by_field(info: Any) -> None:
    schema = Schema(info)
    message = p4runtime_pb2.DigestList(digest_id=385875969)
    for mac, port in ((1, 2), (3, 4)):
        encode_all(schema.digests.named("learn_t").type, (mac, port), message.data.add())
    assert parse_digests(schema, message) == [
        ("learn_t", {"mac": 1, "port": 2}),
        ("learn_t", {"mac": 3, "port": 4}),
    ]


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
