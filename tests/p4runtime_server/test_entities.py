"""Every kind of entity against a runtime, without gRPC: what is taken, what comes back, what is refused and how."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format

from switchml.p4runtime.entries import ActionCall, CounterValue, Match, MatchKind, TableEntry
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.entities import read_entity, write_update


def entity(text: str) -> Any:
    return text_format.Parse(text, pb.Entity())


def write(pipeline: PipelineContext, kind: str, text: str) -> None:
    write_update(pipeline, pb.Update(type=kind, entity=entity(text)))


def read(pipeline: PipelineContext, text: str) -> list[Any]:
    return read_entity(pipeline, entity(text))


def refusal(pipeline: PipelineContext, kind: str, text: str) -> str:
    with pytest.raises(RuntimeRequestError) as raised:
        write(pipeline, kind, text)
    assert str(raised.value)
    return raised.value.code


FORWARD = r'action { action_id: 16777217 params { param_id: 1 value: "\x05" } params { param_id: 2 value: "\xaa" } }'
KEY = r'match { field_id: 1 exact { value: "\n\0\0\1" } } match { field_id: 2 exact { value: "\x01\x00" } }'
EXACT = f"table_entry {{ table_id: 33554433 {KEY} action {{ {FORWARD} }} %s }}"
ENTRY = EXACT % ""
MIXED = r"table_entry { table_id: 33554434 %s action { " + FORWARD + " } %s }"
SELECTED = r'table_entry { table_id: 33554435 match { field_id: 1 exact { value: "%s" } } action { %s } }'
MEMBER = (
    "action_profile_member { action_profile_id: 285212673 member_id: %d action { action_id: 16777217"
    " params { param_id: 1 value: '%s' } params { param_id: 2 value: '\\1' } } }"
)
ONE_SHOT = f"action_profile_action_set {{ action_profile_actions {{ {FORWARD} weight: 1 }} }}"
GROUP = "action_profile_group { action_profile_id: 285212673 group_id: %d %s max_size: %d }"

# What a write gives, a read gives back: update type, entity, what reads it.
ROUND_TRIPS = {
    "exact": ("INSERT", ENTRY, "table_entry { table_id: 33554433 }"),
    "exact with all": (
        "INSERT",
        EXACT % 'metadata: "abc" controller_metadata: 9 idle_timeout_ns: 1000',
        f"table_entry {{ table_id: 33554433 {KEY} }}",
    ),
    "direct resources": (
        "INSERT",
        EXACT % "meter_config { cir: 1 cburst: 2 pir: 3 pburst: 4 } counter_data { packet_count: 5 }",
        "table_entry { table_id: 33554433 meter_config {} counter_data {} }",
    ),
    "mixed": (
        "INSERT",
        MIXED
        % (
            r'match { field_id: 1 lpm { value: "\n\0\0\0" prefix_len: 8 } }'
            r'match { field_id: 2 ternary { value: "\x10" mask: "\xf0" } }'
            r'match { field_id: 3 range { low: "\x03" high: "\x07" } }'
            r'match { field_id: 4 optional { value: "\0" } }',
            "priority: 3",
        ),
        "table_entry { table_id: 33554434 priority: 3 }",
    ),
    "match of anything": ("INSERT", MIXED % ("", "priority: 1"), "table_entry { table_id: 33554434 }"),
    "default": (
        "MODIFY",
        f'table_entry {{ table_id: 33554433 is_default_action: true metadata: "m" action {{ {FORWARD} }} }}',
        "table_entry { table_id: 33554433 is_default_action: true }",
    ),
    "member": ("INSERT", MEMBER % (1, "\\7"), "action_profile_member { }"),
    "empty group": ("INSERT", GROUP % (1, "", 2), "action_profile_group { action_profile_id: 285212673 }"),
    "one-shot": (
        "INSERT",
        SELECTED
        % (
            "\\1",
            "action_profile_action_set {"
            + f"action_profile_actions {{ {FORWARD} weight: 1 }}"
            + f"action_profile_actions {{ {FORWARD} weight: 3 }} }}",
        ),
        "table_entry { table_id: 33554435 }",
    ),
    "multicast group": (
        "INSERT",
        'packet_replication_engine_entry { multicast_group_entry { multicast_group_id: 3 metadata: "m"'
        ' replicas { port: "\\1" instance: 1 } replicas { port: "\\1" instance: 2 } } }',
        "packet_replication_engine_entry { multicast_group_entry { } }",
    ),
    "multicast group with old ports": (
        "INSERT",
        "packet_replication_engine_entry { multicast_group_entry { multicast_group_id: 3"
        " replicas { egress_port: 1 instance: 1 } } }",
        "packet_replication_engine_entry { multicast_group_entry { multicast_group_id: 3 } }",
    ),
    "clone session": (
        "INSERT",
        "packet_replication_engine_entry { clone_session_entry { session_id: 100"
        ' replicas { port: "\\1\\0" instance: 1 } packet_length_bytes: 128 } }',
        "packet_replication_engine_entry { clone_session_entry { } }",
    ),
    "counter": (
        "MODIFY",
        "counter_entry { counter_id: 301989889 index { index: 3 } data { byte_count: 9 packet_count: 2 } }",
        "counter_entry { counter_id: 301989889 index { index: 3 } }",
    ),
    "meter": (
        "MODIFY",
        "meter_entry { meter_id: 335544321 index { } config { cir: 1 cburst: 2 pir: 3 pburst: 4 } }",
        "meter_entry { meter_id: 335544321 index { } }",
    ),
    "register": (
        "MODIFY",
        r'register_entry { register_id: 369098753 index { index: 7 } data { bitstring: "\x01\x02" } }',
        "register_entry { register_id: 369098753 index { index: 7 } }",
    ),
    "signed register": (
        "MODIFY",
        r'register_entry { register_id: 369098754 index { } data { bitstring: "\xfe" } }',
        "register_entry { register_id: 369098754 index { } }",
    ),
    "value set": (
        "MODIFY",
        "value_set_entry { value_set_id: 50331649"
        r' members { match { field_id: 1 exact { value: "\x08\x06" } } }'
        r' members { match { field_id: 1 exact { value: "\1" } }'
        r' match { field_id: 2 ternary { value: "\1" mask: "\1" } } } }',
        "value_set_entry { }",
    ),
    "digest": (
        "INSERT",
        "digest_entry { digest_id: 385875969 config { max_timeout_ns: 1 max_list_size: 2 ack_timeout_ns: 3 } }",
        "digest_entry { }",
    ),
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_reads_give_back_what_writes_gave(pipeline: PipelineContext, case: str) -> None:
    kind, text, query = ROUND_TRIPS[case]
    write(pipeline, kind, text)
    assert read(pipeline, query) == [entity(text)]


def test_values_are_returned_in_their_shortest_form(pipeline: PipelineContext) -> None:
    write(
        pipeline, "INSERT", ENTRY.replace('"\\x05"', '"\\0\\0\\x05"').replace('"\\x01\\x00"', '"\\0\\x01\\0"')
    )
    assert read(pipeline, "table_entry { table_id: 33554433 }") == [entity(ENTRY)]


MEMBERS = [("INSERT", MEMBER % (number, "\\1")) for number in (1, 2, 3)]
TWO = "members { member_id: 1 weight: 1 } members { member_id: 2 weight: 1 }"
DEFAULT = "table_entry { table_id: %d is_default_action: true %s }"
MULTICAST = "packet_replication_engine_entry { multicast_group_entry { multicast_group_id: %d %s } }"
CLONE = "packet_replication_engine_entry { clone_session_entry { session_id: %d %s } }"

# What stands before, the update, and the code of its refusal.
REFUSALS: dict[str, tuple[list[tuple[str, str]], str, str, str]] = {
    "nothing": ([], "INSERT", "", "INVALID_ARGUMENT"),
    "extern": ([], "INSERT", "extern_entry { extern_type_id: 1 }", "UNIMPLEMENTED"),
    "no update type": ([], "UNSPECIFIED", ENTRY, "INVALID_ARGUMENT"),
    "no table id": ([], "INSERT", "table_entry { }", "INVALID_ARGUMENT"),
    "unknown table": ([], "INSERT", "table_entry { table_id: 33554999 }", "NOT_FOUND"),
    "entry twice": ([("INSERT", ENTRY)], "INSERT", ENTRY, "ALREADY_EXISTS"),
    "modify what is not there": ([], "MODIFY", ENTRY, "NOT_FOUND"),
    "modify without action what is not there": (
        [],
        "MODIFY",
        f"table_entry {{ table_id: 33554433 {KEY} }}",
        "NOT_FOUND",
    ),
    "delete what is not there": ([], "DELETE", ENTRY, "NOT_FOUND"),
    "table full": (
        [("INSERT", ENTRY.replace("\\n\\0\\0\\1", f"\\n\\0\\0\\{n}")) for n in (2, 3, 4, 5)],
        "INSERT",
        ENTRY,
        "RESOURCE_EXHAUSTED",
    ),
    "no action": ([], "INSERT", f"table_entry {{ table_id: 33554433 {KEY} }}", "INVALID_ARGUMENT"),
    "action of no table": ([], "INSERT", ENTRY.replace("16777217", "16777777"), "INVALID_ARGUMENT"),
    "action for defaults only": (
        [],
        "INSERT",
        f"table_entry {{ table_id: 33554433 {KEY} action {{ action {{ action_id: 16777219 }} }} }}",
        "PERMISSION_DENIED",
    ),
    "action for entries only": (
        [],
        "MODIFY",
        DEFAULT % (33554433, "action { action { action_id: 16777218 } }"),
        "PERMISSION_DENIED",
    ),
    "parameter missing": ([], "INSERT", ENTRY.replace("param_id: 2", "param_id: 1"), "INVALID_ARGUMENT"),
    "parameter unknown": ([], "INSERT", ENTRY.replace("param_id: 2", "param_id: 3"), "INVALID_ARGUMENT"),
    "parameter too wide": ([], "INSERT", ENTRY.replace("\\x05", "\\x02\\x00"), "OUT_OF_RANGE"),
    "parameter empty": ([], "INSERT", ENTRY.replace("\\x05", ""), "OUT_OF_RANGE"),
    "member for a direct table": (
        [],
        "INSERT",
        f"table_entry {{ table_id: 33554433 {KEY} action {{ action_profile_member_id: 1 }} }}",
        "INVALID_ARGUMENT",
    ),
    "field unknown": ([], "INSERT", ENTRY.replace("field_id: 2", "field_id: 9"), "INVALID_ARGUMENT"),
    "field twice": ([], "INSERT", ENTRY.replace("field_id: 2", "field_id: 1"), "INVALID_ARGUMENT"),
    "field missing": (
        [],
        "INSERT",
        r'table_entry { table_id: 33554433 match { field_id: 1 exact { value: "\1" } } }',
        "INVALID_ARGUMENT",
    ),
    "field too wide": ([], "INSERT", ENTRY.replace("\\x01\\x00", "\\x02\\x00"), "OUT_OF_RANGE"),
    "match of another kind": (
        [],
        "INSERT",
        ENTRY.replace('field_id: 2 exact { value: "\\x01\\x00" }', 'field_id: 2 optional { value: "\\1" }'),
        "INVALID_ARGUMENT",
    ),
    "match of no kind": (
        [],
        "INSERT",
        ENTRY.replace('field_id: 2 exact { value: "\\x01\\x00" }', "field_id: 2"),
        "INVALID_ARGUMENT",
    ),
    "priority where none is needed": ([], "INSERT", EXACT % "priority: 1", "INVALID_ARGUMENT"),
    "no priority where one is": ([], "INSERT", MIXED % ("", ""), "INVALID_ARGUMENT"),
    "negative priority": ([], "INSERT", MIXED % ("", "priority: -1"), "INVALID_ARGUMENT"),
    "constant entry": ([], "INSERT", EXACT % "is_const: true", "INVALID_ARGUMENT"),
    "constant entry deleted": ([("INSERT", ENTRY)], "DELETE", EXACT % "is_const: true", "INVALID_ARGUMENT"),
    "time since last hit": ([], "INSERT", EXACT % "time_since_last_hit { }", "INVALID_ARGUMENT"),
    "negative idle timeout": ([], "INSERT", EXACT % "idle_timeout_ns: -1", "INVALID_ARGUMENT"),
    "idle timeout unsupported": (
        [],
        "INSERT",
        MIXED % ("", "priority: 1 idle_timeout_ns: 1"),
        "INVALID_ARGUMENT",
    ),
    "counter where there is none": (
        [],
        "INSERT",
        MIXED % ("", "priority: 1 counter_data { }"),
        "INVALID_ARGUMENT",
    ),
    "meter where there is none": (
        [],
        "INSERT",
        MIXED % ("", "priority: 1 meter_config { }"),
        "INVALID_ARGUMENT",
    ),
    "colour counters": ([], "INSERT", EXACT % "meter_counter_data { }", "UNIMPLEMENTED"),
    "peak below committed": (
        [],
        "INSERT",
        EXACT % "meter_config { cir: 2 cburst: 1 pir: 1 pburst: 1 }",
        "INVALID_ARGUMENT",
    ),
    "entry of a keyless table": (
        [],
        "INSERT",
        f"table_entry {{ table_id: 33554437 action {{ {FORWARD} }} }}",
        "INVALID_ARGUMENT",
    ),
    "entry of a constant table": (
        [],
        "INSERT",
        r'table_entry { table_id: 33554436 match { field_id: 1 exact { value: "\1" } } action { '
        + FORWARD
        + " } }",
        "PERMISSION_DENIED",
    ),
    "prefix 0": (
        [],
        "INSERT",
        MIXED % (r'match { field_id: 1 lpm { value: "\0" } }', "priority: 1"),
        "INVALID_ARGUMENT",
    ),
    "prefix too long": (
        [],
        "INSERT",
        MIXED % (r'match { field_id: 1 lpm { value: "\0" prefix_len: 33 } }', "priority: 1"),
        "INVALID_ARGUMENT",
    ),
    "bits behind the prefix": (
        [],
        "INSERT",
        MIXED % (r'match { field_id: 1 lpm { value: "\1" prefix_len: 31 } }', "priority: 1"),
        "INVALID_ARGUMENT",
    ),
    "mask 0": (
        [],
        "INSERT",
        MIXED % (r'match { field_id: 2 ternary { value: "\0" mask: "\0" } }', "priority: 1"),
        "INVALID_ARGUMENT",
    ),
    "bits outside the mask": (
        [],
        "INSERT",
        MIXED % (r'match { field_id: 2 ternary { value: "\3" mask: "\1" } }', "priority: 1"),
        "INVALID_ARGUMENT",
    ),
    "range upside down": (
        [],
        "INSERT",
        MIXED % (r'match { field_id: 3 range { low: "\2" high: "\1" } }', "priority: 1"),
        "INVALID_ARGUMENT",
    ),
    "range of all": (
        [],
        "INSERT",
        MIXED % (r'match { field_id: 3 range { low: "\0" high: "\xff" } }', "priority: 1"),
        "INVALID_ARGUMENT",
    ),
    "default inserted": ([], "INSERT", DEFAULT % (33554433, ""), "INVALID_ARGUMENT"),
    "default deleted": ([], "DELETE", DEFAULT % (33554433, ""), "INVALID_ARGUMENT"),
    "default with a key": ([], "MODIFY", DEFAULT % (33554433, KEY), "INVALID_ARGUMENT"),
    "default with a priority": ([], "MODIFY", DEFAULT % (33554434, "priority: 1"), "INVALID_ARGUMENT"),
    "constant default": ([], "MODIFY", DEFAULT % (33554434, ""), "PERMISSION_DENIED"),
    "default of an indirect table": ([], "MODIFY", DEFAULT % (33554435, ""), "PERMISSION_DENIED"),
    "member not there": (
        [],
        "INSERT",
        SELECTED % ("\\1", "action_profile_member_id: 5"),
        "NOT_FOUND",
    ),
    "group not there": ([], "INSERT", SELECTED % ("\\1", "action_profile_group_id: 5"), "NOT_FOUND"),
    "action for an indirect table": ([], "INSERT", SELECTED % ("\\1", FORWARD), "INVALID_ARGUMENT"),
    "one-shot too large": (
        [],
        "INSERT",
        SELECTED
        % (
            "\\1",
            f"action_profile_action_set {{ action_profile_actions {{ {FORWARD} weight: 5 }} }}",
        ),
        "INVALID_ARGUMENT",
    ),
    "one-shot without weight": (
        [],
        "INSERT",
        SELECTED % ("\\1", f"action_profile_action_set {{ action_profile_actions {{ {FORWARD} }} }}"),
        "INVALID_ARGUMENT",
    ),
    "one-shot with a watched port": (
        [],
        "INSERT",
        SELECTED
        % (
            "\\1",
            "action_profile_action_set { action_profile_actions { "
            + FORWARD
            + r' weight: 1 watch_port: "\1" } }',
        ),
        "UNIMPLEMENTED",
    ),
    "one-shot beside a member": (
        [*MEMBERS, ("INSERT", SELECTED % ("\\1", "action_profile_member_id: 1"))],
        "INSERT",
        SELECTED % ("\\2", ONE_SHOT),
        "INVALID_ARGUMENT",
    ),
    "member beside one-shots": (
        [
            *MEMBERS,
            ("INSERT", SELECTED % ("\\1", ONE_SHOT)),
            ("INSERT", SELECTED % ("\\2", ONE_SHOT)),
        ],
        "MODIFY",
        SELECTED % ("\\2", "action_profile_member_id: 1"),
        "INVALID_ARGUMENT",
    ),
    "member twice": (MEMBERS[:1], "INSERT", MEMBER % (1, "\\1"), "ALREADY_EXISTS"),
    "member 0": ([], "INSERT", MEMBER % (0, "\\1"), "INVALID_ARGUMENT"),
    "member unknown": ([], "MODIFY", MEMBER % (1, "\\1"), "NOT_FOUND"),
    "members full": (MEMBERS, "INSERT", MEMBER % (4, "\\1"), "RESOURCE_EXHAUSTED"),
    "member without action": (
        [],
        "INSERT",
        "action_profile_member { action_profile_id: 285212673 member_id: 1 }",
        "INVALID_ARGUMENT",
    ),
    "member of a group deleted": (
        [*MEMBERS, ("INSERT", GROUP % (1, TWO, 2))],
        "DELETE",
        MEMBER % (1, "\\1"),
        "FAILED_PRECONDITION",
    ),
    "member of an entry deleted": (
        [*MEMBERS, ("INSERT", SELECTED % ("\\1", "action_profile_member_id: 1"))],
        "DELETE",
        MEMBER % (1, "\\1"),
        "FAILED_PRECONDITION",
    ),
    "group of an entry deleted": (
        [
            *MEMBERS,
            ("INSERT", GROUP % (1, TWO, 2)),
            ("INSERT", SELECTED % ("\\1", "action_profile_group_id: 1")),
        ],
        "DELETE",
        GROUP % (1, "", 0),
        "FAILED_PRECONDITION",
    ),
    "group with unknown member": ([], "INSERT", GROUP % (1, TWO, 2), "NOT_FOUND"),
    "group with a member twice": (
        MEMBERS,
        "INSERT",
        GROUP % (1, TWO.replace("member_id: 2", "member_id: 1"), 2),
        "INVALID_ARGUMENT",
    ),
    "group too large": (MEMBERS, "INSERT", GROUP % (1, TWO, 1), "RESOURCE_EXHAUSTED"),
    "group max_size too large": ([], "INSERT", GROUP % (1, "", 5), "INVALID_ARGUMENT"),
    "group max_size missing": ([], "INSERT", GROUP % (1, "", 0), "INVALID_ARGUMENT"),
    "group max_size changed": (
        [("INSERT", GROUP % (1, "", 2))],
        "MODIFY",
        GROUP % (1, "", 3),
        "INVALID_ARGUMENT",
    ),
    "multicast group 0": ([], "INSERT", MULTICAST % (0, ""), "INVALID_ARGUMENT"),
    "multicast group twice": (
        [("INSERT", MULTICAST % (1, ""))],
        "INSERT",
        MULTICAST % (1, ""),
        "ALREADY_EXISTS",
    ),
    "multicast group unknown": ([], "MODIFY", MULTICAST % (1, ""), "NOT_FOUND"),
    "replica twice": (
        [],
        "INSERT",
        MULTICAST % (1, r'replicas { port: "\1" } replicas { port: "\0\1" }'),
        "INVALID_ARGUMENT",
    ),
    "instance too wide": (
        [],
        "INSERT",
        MULTICAST % (1, r'replicas { port: "\1" instance: 65536 }'),
        "INVALID_ARGUMENT",
    ),
    "backup replicas": (
        [],
        "INSERT",
        MULTICAST % (1, r'replicas { port: "\1" backup_replicas { port: "\2" } }'),
        "UNIMPLEMENTED",
    ),
    "clone session 0": ([], "INSERT", CLONE % (0, ""), "INVALID_ARGUMENT"),
    "clone session unknown": ([], "DELETE", CLONE % (1, ""), "NOT_FOUND"),
    "class of service": ([], "INSERT", CLONE % (1, "class_of_service: 1"), "INVALID_ARGUMENT"),
    "no replication type": ([], "INSERT", "packet_replication_engine_entry { }", "INVALID_ARGUMENT"),
    "counter inserted": (
        [],
        "INSERT",
        "counter_entry { counter_id: 301989889 index { } }",
        "INVALID_ARGUMENT",
    ),
    "counter unknown": ([], "MODIFY", "counter_entry { counter_id: 301989999 }", "NOT_FOUND"),
    "counter index below 0": (
        [],
        "MODIFY",
        "counter_entry { counter_id: 301989889 index { index: -1 } }",
        "INVALID_ARGUMENT",
    ),
    "counter index too large": (
        [],
        "MODIFY",
        "counter_entry { counter_id: 301989889 index { index: 8 } }",
        "OUT_OF_RANGE",
    ),
    "negative count": (
        [],
        "MODIFY",
        "counter_entry { counter_id: 301989889 data { byte_count: -1 } }",
        "INVALID_ARGUMENT",
    ),
    "meter deleted": ([], "DELETE", "meter_entry { meter_id: 335544321 }", "INVALID_ARGUMENT"),
    "excess burst": (
        [],
        "MODIFY",
        "meter_entry { meter_id: 335544321 config { eburst: 1 } }",
        "INVALID_ARGUMENT",
    ),
    "register with another type": (
        [],
        "MODIFY",
        "register_entry { register_id: 369098753 index { } data { bool: true } }",
        "INVALID_ARGUMENT",
    ),
    "register without data": (
        [],
        "MODIFY",
        "register_entry { register_id: 369098753 index { } }",
        "INVALID_ARGUMENT",
    ),
    "register value too wide": (
        [],
        "MODIFY",
        r'register_entry { register_id: 369098754 index { } data { bitstring: "\0\x80" } }',
        "OUT_OF_RANGE",
    ),
    "register index too large": (
        [],
        "MODIFY",
        r'register_entry { register_id: 369098754 index { index: 2 } data { bitstring: "\1" } }',
        "OUT_OF_RANGE",
    ),
    "value set inserted": ([], "INSERT", "value_set_entry { value_set_id: 50331649 }", "INVALID_ARGUMENT"),
    "value set too large": (
        [],
        "MODIFY",
        "value_set_entry { value_set_id: 50331649 members { } members { } members { } }",
        "RESOURCE_EXHAUSTED",
    ),
    "value set member twice": (
        [],
        "MODIFY",
        "value_set_entry { value_set_id: 50331649"
        + r' members { match { field_id: 1 exact { value: "\1" } } }' * 2
        + "}",
        "ALREADY_EXISTS",
    ),
    "digest unknown": ([], "INSERT", "digest_entry { digest_id: 1 }", "NOT_FOUND"),
    "digest not configured": ([], "MODIFY", "digest_entry { digest_id: 385875969 }", "NOT_FOUND"),
    "negative digest timeout": (
        [],
        "INSERT",
        "digest_entry { digest_id: 385875969 config { max_timeout_ns: -1 } }",
        "INVALID_ARGUMENT",
    ),
    "direct counter of no entry": (
        [],
        "MODIFY",
        f"direct_counter_entry {{ table_entry {{ table_id: 33554433 {KEY} }} data {{ }} }}",
        "NOT_FOUND",
    ),
    "direct counter of a table without": (
        [],
        "MODIFY",
        "direct_counter_entry { table_entry { table_id: 33554434 priority: 1 } data { } }",
        "INVALID_ARGUMENT",
    ),
    "direct meter inserted": (
        [("INSERT", ENTRY)],
        "INSERT",
        f"direct_meter_entry {{ table_entry {{ table_id: 33554433 {KEY} }} }}",
        "INVALID_ARGUMENT",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(pipeline: PipelineContext, case: str) -> None:
    before, kind, text, code = REFUSALS[case]
    for earlier in before:
        write(pipeline, *earlier)
    state = everything(pipeline)
    assert refusal(pipeline, kind, text) == code
    assert everything(pipeline) == state


def everything(pipeline: PipelineContext) -> list[Any]:
    queries = [
        "table_entry { counter_data { } meter_config { } }",
        "table_entry { is_default_action: true }",
        "action_profile_member { }",
        "action_profile_group { }",
        "packet_replication_engine_entry { multicast_group_entry { } }",
        "packet_replication_engine_entry { clone_session_entry { } }",
        "counter_entry { }",
        "meter_entry { }",
        "register_entry { }",
        "value_set_entry { }",
        "digest_entry { }",
        "direct_counter_entry { table_entry { } }",
        "direct_meter_entry { table_entry { } }",
    ]
    return [found for query in queries for found in read(pipeline, query)]


def test_a_runtime_sees_names_and_numbers(pipeline: PipelineContext) -> None:
    write(pipeline, "INSERT", EXACT % 'metadata: "m"')
    assert pipeline.runtime.entries("Ingress.exact") == (
        TableEntry(
            {
                "hdr.h.a": Match(MatchKind.EXACT, 0x0A000001),
                "hdr.h.b": Match(MatchKind.EXACT, 0x100),
            },
            ActionCall("Ingress.forward", (5, 0xAA)),
            metadata=b"m",
        ),
    )
    write(pipeline, "MODIFY", ROUND_TRIPS["signed register"][1])
    assert pipeline.runtime.read_register("Ingress.exponent") == (0xFE, 0)
    write(pipeline, "MODIFY", ROUND_TRIPS["value set"][1])
    assert pipeline.runtime.value_sets["Parser.types"] == [  # type: ignore[attr-defined]
        (Match(MatchKind.EXACT, 0x806), Match(MatchKind.TERNARY, 0, 0)),
        (Match(MatchKind.EXACT, 1), Match(MatchKind.TERNARY, 1, 1)),
    ]


def test_modify_and_delete(pipeline: PipelineContext) -> None:
    write(
        pipeline, "INSERT", EXACT % 'metadata: "m" counter_data { packet_count: 5 } meter_config { pir: 1 }'
    )
    changed = EXACT.replace("\\x05", "\\x06")
    write(pipeline, "MODIFY", changed % "")
    query = "table_entry { table_id: 33554433 counter_data { } meter_config { } }"
    assert read(pipeline, query) == [entity(changed % "counter_data { packet_count: 5 }")]
    # Without an action only direct resources change.
    write(
        pipeline,
        "MODIFY",
        f"table_entry {{ table_id: 33554433 {KEY} counter_data {{ packet_count: 9 }} }}",
    )
    assert read(pipeline, query) == [entity(changed % "counter_data { packet_count: 9 }")]
    # What is not the key does not matter to DELETE.
    write(pipeline, "DELETE", EXACT.replace("16777217", "99") % "idle_timeout_ns: -5")
    assert read(pipeline, query) == []
    for kind, text, absent in (
        ("member", MEMBER % (1, "\\1"), "action_profile_member { }"),
        ("group", GROUP % (1, "", 2), "action_profile_group { }"),
        (
            "multicast group",
            MULTICAST % (1, ""),
            "packet_replication_engine_entry { multicast_group_entry { } }",
        ),
        ("clone session", CLONE % (1, ""), "packet_replication_engine_entry { clone_session_entry { } }"),
        ("digest", "digest_entry { digest_id: 385875969 config { } }", "digest_entry { }"),
    ):
        write(pipeline, "INSERT", text)
        write(pipeline, "MODIFY", text)
        assert read(pipeline, absent) == [entity(text)], kind
        write(pipeline, "DELETE", text)
        assert read(pipeline, absent) == [], kind


def test_a_selector_changes_its_style_when_it_is_empty(pipeline: PipelineContext) -> None:
    write(pipeline, *MEMBERS[0])
    one_shot, reference = (SELECTED % ("\\1", action) for action in (ONE_SHOT, "action_profile_member_id: 1"))
    write(pipeline, "INSERT", one_shot)
    write(pipeline, "MODIFY", reference)
    write(pipeline, "DELETE", reference)
    write(pipeline, "INSERT", one_shot)
    assert read(pipeline, "table_entry { table_id: 33554435 }") == [entity(one_shot)]


def test_default_entry_goes_back_to_the_program(pipeline: PipelineContext) -> None:
    original = read(pipeline, DEFAULT % (33554433, ""))
    assert original == [entity(DEFAULT % (33554433, "action { action { action_id: 16777219 } }"))]
    write(pipeline, "MODIFY", DEFAULT % (33554433, f"action {{ {FORWARD} }} metadata: 'm'"))
    assert read(pipeline, DEFAULT % (33554433, "")) != original
    write(pipeline, "MODIFY", DEFAULT % (33554433, ""))
    assert read(pipeline, DEFAULT % (33554433, "")) == original


def test_a_constant_table_is_read_and_its_entries_keep_their_actions(pipeline: PipelineContext) -> None:
    runtime: Any = pipeline.runtime
    key = {"hdr.h.a": Match(MatchKind.EXACT, 1)}
    runtime.add_constant("Ingress.constant", TableEntry(key, ActionCall("Ingress.forward", (1, 2))))
    (found,) = read(pipeline, "table_entry { table_id: 33554436 }")
    assert found.table_entry.is_const
    found.table_entry.is_const = False
    for kind in ("MODIFY", "DELETE"):
        assert refusal(pipeline, kind, text_format.MessageToString(found)) == "PERMISSION_DENIED"


def test_a_programs_own_way_to_say_anything_is_left_out(pipeline: PipelineContext) -> None:
    key = {
        "hdr.h.l": Match(MatchKind.LPM, 0x0A010203, 8),
        "hdr.h.t": Match(MatchKind.TERNARY, 0xFF, 0x0F),
        "hdr.h.r": Match(MatchKind.RANGE, 0, 255),
        "hdr.h.o": Match(MatchKind.TERNARY, 0, 0),
    }
    pipeline.runtime.insert("Ingress.mixed", TableEntry(key, ActionCall("Ingress.forward", (1, 2)), 1))
    (found,) = read(pipeline, "table_entry { table_id: 33554434 }")
    wanted = entity(
        r'table_entry { match { field_id: 1 lpm { value: "\n\0\0\0" prefix_len: 8 } }'
        r' match { field_id: 2 ternary { value: "\x0f" mask: "\x0f" } } }'
    )
    assert list(found.table_entry.match) == list(wanted.table_entry.match)
    query = pb.Entity()
    query.table_entry.table_id = 33554434
    query.table_entry.match.extend(found.table_entry.match)
    assert read_entity(pipeline, query) == [found]


def test_reads_select(pipeline: PipelineContext) -> None:
    other = (EXACT % 'metadata: "x" controller_metadata: 4').replace("\\n\\0\\0\\1", "\\n\\0\\0\\2")
    dropped = (
        (EXACT % "")
        .replace("\\n\\0\\0\\1", "\\n\\0\\0\\3")
        .replace(FORWARD, "action { action_id: 16777218 }")
    )
    first = MIXED % ("", "priority: 1")
    second = MIXED % (r'match { field_id: 4 optional { value: "\1" } }', "priority: 2")
    for text in (ENTRY, other, dropped, first, second):
        write(pipeline, "INSERT", text)
    for query, found in (
        ("", [ENTRY, other, dropped, first, second]),
        ("table_id: 33554433", [ENTRY, other, dropped]),
        (f"table_id: 33554433 {KEY}", [ENTRY]),
        ('table_id: 33554433 metadata: "x"', [other]),
        ("table_id: 33554433 controller_metadata: 4", [other]),
        ("table_id: 33554433 action { action { action_id: 16777218 } }", [dropped]),
        ("table_id: 33554434 priority: 2", [second]),
        ("table_id: 33554435", []),
    ):
        assert read(pipeline, f"table_entry {{ {query} }}") == [entity(text) for text in found]


def test_wildcards_of_arrays(pipeline: PipelineContext) -> None:
    write(pipeline, "MODIFY", "counter_entry { counter_id: 301989889 data { packet_count: 2 } }")
    found = read(pipeline, "counter_entry { }")
    assert [(each.counter_entry.index.index, each.counter_entry.data.packet_count) for each in found] == [
        (cell, 2) for cell in range(8)
    ]
    write(pipeline, "MODIFY", r'register_entry { register_id: 369098753 data { bitstring: "\5" } }')
    cells = [each.register_entry for each in read(pipeline, "register_entry { }")]
    assert [cell.data.bitstring for cell in cells] == [b"\x05"] * 8 + [b"\x00"] * 2
    assert len(read(pipeline, "meter_entry { meter_id: 335544321 }")) == 4
    for kind in ("counter", "register", "meter"):  # an index means nothing where all arrays are wanted
        query = f"{kind}_entry {{ index {{ index: 5 }} }}"
        assert read(pipeline, query) == read(pipeline, f"{kind}_entry {{ }}") != []
    for query, code in (
        ("counter_entry { counter_id: 301989889 index { index: 8 } }", "OUT_OF_RANGE"),
        ("counter_entry { counter_id: 301989889 index { index: -1 } }", "INVALID_ARGUMENT"),
        ("register_entry { register_id: 1 }", "NOT_FOUND"),
        ("meter_entry { counter_data { } }", "UNIMPLEMENTED"),
        ("table_entry { table_id: 33554434 time_since_last_hit { } }", "INVALID_ARGUMENT"),
        ("packet_replication_engine_entry { }", "INVALID_ARGUMENT"),
    ):
        with pytest.raises(RuntimeRequestError) as raised:
            read(pipeline, query)
        assert raised.value.code == code


def test_the_time_since_the_last_hit_is_there_when_asked_for(pipeline: PipelineContext) -> None:
    write(pipeline, "INSERT", ENTRY)
    write(pipeline, "INSERT", MIXED % ("", "priority: 1"))  # of a table without idle timeout
    hit = EXACT % "time_since_last_hit { elapsed_ns: 12000 }"
    assert read(pipeline, "table_entry { table_id: 33554433 time_since_last_hit { } }") == [entity(hit)]
    assert read(pipeline, "table_entry { time_since_last_hit { } }")[0] == entity(hit)
    assert read(pipeline, "table_entry { }")[0] == entity(ENTRY)


def test_direct_resources_have_entities_of_their_own(pipeline: PipelineContext) -> None:
    write(pipeline, "INSERT", ENTRY)
    named = f"table_entry {{ table_id: 33554433 {KEY} }}"
    write(pipeline, "MODIFY", f"direct_counter_entry {{ {named} data {{ byte_count: 70 packet_count: 2 }} }}")
    write(pipeline, "MODIFY", f"direct_meter_entry {{ {named} config {{ cir: 1 pir: 2 }} }}")
    for query in (named, "table_entry { table_id: 33554433 }", "table_entry { }"):
        (counter,) = read(pipeline, f"direct_counter_entry {{ {query} }}")
        assert counter.direct_counter_entry.data == pb.CounterData(byte_count=70, packet_count=2)
        (meter,) = read(pipeline, f"direct_meter_entry {{ {query} }}")
        assert meter.direct_meter_entry.config == pb.MeterConfig(cir=1, pir=2)
    write(pipeline, "MODIFY", f"direct_meter_entry {{ {named} }}")
    (meter,) = read(pipeline, f"direct_meter_entry {{ {named} }}")
    assert not meter.direct_meter_entry.HasField("config")
    (entry,) = pipeline.runtime.entries("Ingress.exact")
    assert pipeline.runtime.read_direct_counter("Ingress.exact", entry.key) == CounterValue(2, 70)
