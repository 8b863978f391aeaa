"""A saved pipeline that is programmed before it is in force, and one that takes the state of another over."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format

from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.p4runtime.stubs import p4info_pb2
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.entities import read_entity, write_update
from switchml.switch_emulator.p4runtime.pipeline_config import Forwarding

ACTION = (
    r'action { action_id: 16777217 params { param_id: 1 value: "\5" } params { param_id: 2 value: "\6" } }'
)
EXACT = (
    "table_entry { table_id: 33554433"
    r' match { field_id: 1 exact { value: "\1" } } match { field_id: 2 exact { value: "\2" } }'
    f" action {{ {ACTION} }} metadata: 'm' controller_metadata: 7 idle_timeout_ns: 9"
    " meter_config { cir: 1 pir: 2 } counter_data { packet_count: 3 } }"
)
STATE = {
    "exact": ("INSERT", EXACT),
    "default": (
        "MODIFY",
        f"table_entry {{ table_id: 33554433 is_default_action: true action {{ {ACTION} }} }}",
    ),
    "member": (
        "INSERT",
        f"action_profile_member {{ action_profile_id: 285212673 member_id: 1 {ACTION} }}",
    ),
    "group": (
        "INSERT",
        "action_profile_group { action_profile_id: 285212673 group_id: 2 max_size: 3"
        " members { member_id: 1 weight: 2 } }",
    ),
    "selected": (
        "INSERT",
        r'table_entry { table_id: 33554435 match { field_id: 1 exact { value: "\1" } }'
        " action { action_profile_group_id: 2 } }",
    ),
    "multicast": (
        "INSERT",
        "packet_replication_engine_entry { multicast_group_entry { multicast_group_id: 3 metadata: 'm'"
        r' replicas { port: "\1" instance: 1 } } }',
    ),
    "clone": (
        "INSERT",
        "packet_replication_engine_entry { clone_session_entry { session_id: 100 packet_length_bytes: 9"
        " replicas { egress_port: 4 instance: 1 } } }",
    ),
    "counter": (
        "MODIFY",
        "counter_entry { counter_id: 301989889 index { index: 7 } data { byte_count: 9 } }",
    ),
    "meter": ("MODIFY", "meter_entry { meter_id: 335544321 index { index: 3 } config { cir: 1 pir: 2 } }"),
    "register": (
        "MODIFY",
        r'register_entry { register_id: 369098753 index { index: 7 } data { bitstring: "\1\2" } }',
    ),
    "value set": (
        "MODIFY",
        r'value_set_entry { value_set_id: 50331649 members { match { field_id: 1 exact { value: "\1" } } } }',
    ),
    "digest": ("INSERT", "digest_entry { digest_id: 385875969 config { max_list_size: 2 } }"),
}
QUERIES = (
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
)


def entity(text: str) -> Any:
    return text_format.Parse(text, pb.Entity())


def write(pipeline: PipelineContext, kind: str, text: str) -> None:
    write_update(pipeline, pb.Update(type=kind, entity=entity(text)))


def everything(pipeline: PipelineContext) -> list[Any]:
    return [found for query in QUERIES for found in read_entity(pipeline, entity(query))]


def config(info: Any, program: bytes) -> Any:
    return pb.ForwardingPipelineConfig(p4info=info, p4_device_config=program)


@pytest.fixture
def forwarding(staging_device: Any, info: Any) -> Forwarding:
    """With all of `STATE`."""
    forwarding = Forwarding(staging_device)
    forwarding.set("VERIFY_AND_COMMIT", config(info, b"old"))
    for kind, text in STATE.values():
        write(forwarding.for_requests(), kind, text)
    return forwarding


def test_a_saved_pipeline_is_programmed_before_it_is_in_force(
    forwarding: Forwarding, staging_device: Any, info: Any
) -> None:
    before = everything(forwarding.pipeline())
    forwarding.set("VERIFY_AND_SAVE", config(info, b"new"))
    saved = forwarding.for_requests()
    assert not [found for found in everything(saved) if found.HasField("digest_entry")]
    write(saved, *STATE["exact"])
    assert everything(forwarding.pipeline()) == before
    assert staging_device.config == b"old"
    forwarding.set("COMMIT", None)
    assert staging_device.config == b"new"
    assert forwarding.pipeline() is forwarding.for_requests() is saved
    (found,) = read_entity(saved, entity(QUERIES[0]))
    assert found == entity(EXACT)


def test_a_saved_pipeline_gives_way_to_another(
    forwarding: Forwarding, staging_device: Any, info: Any
) -> None:
    forwarding.set("VERIFY_AND_SAVE", config(info, b"new"))
    write(forwarding.for_requests(), *STATE["exact"])
    forwarding.set("VERIFY_AND_COMMIT", config(info, b"newer"))
    assert read_entity(forwarding.for_requests(), entity(QUERIES[0])) == []
    with pytest.raises(RuntimeRequestError) as refusal:
        forwarding.set("COMMIT", None)
    assert refusal.value.code == "NOT_FOUND"


def test_all_state_is_carried_over(forwarding: Forwarding, staging_device: Any, info: Any) -> None:
    before = everything(forwarding.pipeline())
    assert {found.WhichOneof("entity") for found in before} >= {
        entity(text).WhichOneof("entity") for _, text in STATE.values()
    }
    for table in info.tables:
        table.size += 5
    info.actions.add().preamble.CopyFrom(p4info_pb2.Preamble(id=16777300, name="Ingress.other"))
    forwarding.set("RECONCILE_AND_COMMIT", config(info, b"new"))
    assert staging_device.config == b"new"
    assert len(forwarding.pipeline().schema.actions.by_id) == len(info.actions)
    assert everything(forwarding.pipeline()) == before


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("exact", lambda info: info.tables.remove(info.tables[0])),
        ("exact", lambda info: setattr(info.actions[0].params[0], "bitwidth", 2)),
        ("selected", lambda info: info.tables.remove(info.tables[2])),
        ("counter", lambda info: setattr(info.counters[0], "size", 7)),
        ("register", lambda info: setattr(info.registers[0], "size", 7)),
        ("value set", lambda info: info.value_sets.remove(info.value_sets[0])),
        ("digest", lambda info: info.digests.remove(info.digests[0])),
    ],
)
def test_state_without_a_place_is_a_refusal(staging_device: Any, info: Any, case: str, change: Any) -> None:
    forwarding = Forwarding(staging_device)
    forwarding.set("VERIFY_AND_COMMIT", config(info, b"old"))
    changed = type(info)()
    changed.CopyFrom(info)
    change(changed)
    # Nothing is lost of what is not there.
    forwarding.set("RECONCILE_AND_COMMIT", config(changed, b"new"))
    forwarding.set("VERIFY_AND_COMMIT", config(info, b"old"))
    for name in ("member", "group", case) if case == "selected" else (case,):
        write(forwarding.pipeline(), *STATE[name])
    before = everything(forwarding.pipeline())
    with pytest.raises(RuntimeRequestError) as refusal:
        forwarding.set("RECONCILE_AND_COMMIT", config(changed, b"new"))
    assert refusal.value.code == "INVALID_ARGUMENT"
    assert "the state can't be kept" in str(refusal.value)
    assert everything(forwarding.pipeline()) == before
    assert staging_device.config == b"old"
