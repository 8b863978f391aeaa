"""Messages with wrong bytes in them: whatever they come to mean, they are carried out or refused, and reads go on working."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.p4runtime.schema import Schema
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.entities import read_entity, write_update

ACTION = (
    r'action { action_id: 16777217 params { param_id: 1 value: "\5" } params { param_id: 2 value: "\6" } }'
)
KEY = r'match { field_id: 1 exact { value: "\1" } } match { field_id: 2 exact { value: "\2" } }'
SOUND = (
    f"table_entry {{ table_id: 33554433 {KEY} action {{ {ACTION} }} counter_data {{ packet_count: 1 }} }}",
    r'table_entry { table_id: 33554434 match { field_id: 1 lpm { value: "\n\0\0\0" prefix_len: 8 } }'
    r' match { field_id: 2 ternary { value: "\x10" mask: "\xf0" } }'
    r' match { field_id: 3 range { low: "\x03" high: "\x07" } } priority: 3 action { ' + ACTION + " } }",
    r'table_entry { table_id: 33554435 match { field_id: 1 exact { value: "\1" } } action {'
    f" action_profile_action_set {{ action_profile_actions {{ {ACTION} weight: 2 }} }} }} }}",
    f"action_profile_member {{ action_profile_id: 285212673 member_id: 1 {ACTION} }}",
    "action_profile_group { action_profile_id: 285212673 group_id: 2 max_size: 3 }",
    "packet_replication_engine_entry { multicast_group_entry { multicast_group_id: 3"
    r' replicas { port: "\1" instance: 1 } } }',
    "packet_replication_engine_entry { clone_session_entry { session_id: 9 replicas { egress_port: 4 } } }",
    "counter_entry { counter_id: 301989889 index { index: 3 } data { byte_count: 9 packet_count: 2 } }",
    "meter_entry { meter_id: 335544321 index { index: 2 } config { cir: 1 cburst: 2 pir: 3 pburst: 4 } }",
    r'register_entry { register_id: 369098753 index { index: 7 } data { bitstring: "\x01\x02" } }',
    r'value_set_entry { value_set_id: 50331649 members { match { field_id: 1 exact { value: "\1" } } } }',
    "digest_entry { digest_id: 385875969 config { max_timeout_ns: 1 max_list_size: 2 ack_timeout_ns: 3 } }",
    f"direct_counter_entry {{ table_entry {{ table_id: 33554433 {KEY} }} data {{ byte_count: 7 }} }}",
    f"direct_meter_entry {{ table_entry {{ table_id: 33554433 {KEY} }} config {{ cir: 1 pir: 2 }} }}",
)
MESSAGES = [text_format.Parse(text, pb.Entity()).SerializeToString() for text in SOUND]


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A sound entity, some bytes of which were overwritten, or a part of which is missing."""
    data = bytearray(draw(st.sampled_from(MESSAGES)))
    for place, value in draw(
        st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=3)
    ):
        data[place] = value
    first, last = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    if draw(st.booleans()):
        del data[first:last]
    try:
        return pb.Entity.FromString(bytes(data))
    except DecodeError:
        return pb.Entity()


@pytest.mark.parametrize("sound", MESSAGES, ids=range(len(MESSAGES)))
def test_the_sound_ones_are_known(pipeline: PipelineContext, sound: bytes) -> None:
    """The messages above do mean something, or the next test would say little."""
    entity = pb.Entity.FromString(sound)
    kind = entity.WhichOneof("entity")
    if kind.startswith("direct"):
        write_update(pipeline, pb.Update(type="INSERT", entity=pb.Entity.FromString(MESSAGES[0])))
    inserted = kind in ("table_entry", "action_profile_member", "action_profile_group", "digest_entry")
    inserted = inserted or kind == "packet_replication_engine_entry"
    write_update(pipeline, pb.Update(type="INSERT" if inserted else "MODIFY", entity=entity))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["INSERT", "MODIFY", "DELETE", "READ"]), damaged()), max_size=8))
def test_damage_is_carried_out_or_refused(
    info: Any, pipeline: PipelineContext, requests: list[tuple[str, Any]]
) -> None:
    fresh = PipelineContext(Schema(info), type(pipeline.runtime)(info))  # type: ignore[call-arg]
    refusals = []
    for kind, entity in requests:
        try:
            if kind == "READ":
                read_entity(fresh, entity)
            else:
                write_update(fresh, pb.Update(type=kind, entity=entity))
        except RuntimeRequestError as refusal:
            refusals.append(str(refusal))
    assert all(refusals)  # each says something
    for query in (
        "table_entry { counter_data { } meter_config { } }",
        "action_profile_group { }",
        "value_set_entry { }",
    ):
        read_entity(fresh, text_format.Parse(query, pb.Entity()))
