"""The P4 program that p4c has compiled, over gRPC: full tables, digests of packets, a pipeline that is changed with its state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format

from switchml.p4runtime.stubs import code_pb2, p4info_pb2, status_pb2
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4.device import P4Device
from switchml.switch_emulator.p4runtime.p4runtime_server import serve

PROGRAM = Path(__file__).parents[2] / "p4" / "build" / "switchml_64.json"
P4INFO = PROGRAM.with_suffix(".p4info.txtpb")
OWN_ADDRESS = "SwitchIngress.own_address"
DEVICE_ID = 7  # that of `connect`

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="the compiled program is not there: make -C p4")


@pytest.fixture
def info() -> Any:
    return text_format.Parse(P4INFO.read_text(), p4info_pb2.P4Info())


@pytest.fixture
def device() -> P4Device:
    return P4Device(DEVICE_ID)


@pytest.fixture
def server(device: P4Device) -> Iterator[Any]:
    with serve(device) as server:
        yield server


@pytest.fixture
def primary(connect: Any, info: Any) -> Any:
    client = connect()
    assert client.arbitrate(1) == code_pb2.OK
    client.set_pipeline(info, PROGRAM.read_bytes())
    return client


class Names:
    """Ids of a P4Info by name."""

    def __init__(self, info: Any) -> None:
        objects = (info.tables, info.actions, info.registers, info.counters, info.digests)
        self._ids = {each.preamble.name: each.preamble.id for kind in objects for each in kind}

    def __getitem__(self, name: str) -> int:
        return int(self._ids[name])

    def own_address(self, number: int) -> Any:
        entity = pb.Entity()
        entity.table_entry.table_id = self[OWN_ADDRESS]
        entity.table_entry.match.add(field_id=1).exact.value = bytes([10, 0, 0, number])
        action = entity.table_entry.action.action
        action.action_id = self["SwitchIngress.is_ours"]
        action.params.add(param_id=1, value=b"\x02SML\x00\x01")
        return entity

    def own_addresses(self) -> Any:
        return pb.Entity(table_entry=pb.TableEntry(table_id=self[OWN_ADDRESS]))

    def stamp(self, index: int) -> Any:
        entity = pb.Entity()
        entity.register_entry.register_id = self["SwitchIngress.stamp"]
        entity.register_entry.index.index = index
        return entity


def test_a_full_table(primary: Any, info: Any) -> None:
    names = Names(info)
    size = next(table.size for table in info.tables if table.preamble.name == OWN_ADDRESS)
    primary.write(*[("INSERT", names.own_address(number)) for number in range(size)])
    with pytest.raises(grpc.RpcError) as raised:
        primary.write(("INSERT", names.own_address(size)), ("DELETE", names.own_address(0)))
    status = status_pb2.Status.FromString(dict(raised.value.trailing_metadata())["grpc-status-details-bin"])
    error = pb.Error()
    status.details[0].Unpack(error)
    assert error.canonical_code == code_pb2.RESOURCE_EXHAUSTED
    assert len(primary.read(names.own_addresses())) == size - 1


def test_a_packet_of_a_new_station_is_told(primary: Any, device: P4Device, info: Any) -> None:
    digest = pb.Entity()
    digest.digest_entry.digest_id = Names(info)["station_digest_t"]
    digest.digest_entry.config.max_list_size = 1
    primary.write(("INSERT", digest))
    source = bytes.fromhex("020000000005")
    device.process(3, b"\xff" * 6 + source + b"\x12\x34" + bytes(46))
    told = primary.receive().digest
    assert told.digest_id == digest.digest_entry.digest_id
    assert [[leaf.bitstring for leaf in each.struct.members] for each in told.data] == [[source, b"\x03"]]


def test_another_program_is_saved_filled_and_committed(primary: Any, device: P4Device, info: Any) -> None:
    names = Names(info)
    primary.write(("INSERT", names.own_address(1)))
    before = device.runtime
    primary.set_pipeline(info, PROGRAM.read_bytes() + b"\n", "VERIFY_AND_SAVE")
    assert primary.read(names.own_addresses()) == []
    primary.write(("INSERT", names.own_address(2)))
    assert device.runtime is before
    assert [entry.key["meta.target_addr"].value for entry in before.entries(OWN_ADDRESS)] == [0x0A000001]
    primary.set_pipeline(None, action="COMMIT")
    assert device.runtime is not before
    assert primary.read(names.own_addresses()) == [names.own_address(2)]


def test_a_changed_program_keeps_its_state(primary: Any, device: P4Device, info: Any) -> None:
    names = Names(info)
    written = names.stamp(5)
    written.register_entry.data.bitstring = b"\x07"
    primary.write(("INSERT", names.own_address(1)), ("MODIFY", written))
    before = device.runtime
    primary.set_pipeline(info, PROGRAM.read_bytes() + b"\n", "RECONCILE_AND_COMMIT")
    assert device.runtime is not before
    assert primary.read(names.own_addresses()) == [names.own_address(1)]
    assert primary.read(names.stamp(5)) == [written]
    assert not primary.read(names.stamp(6))[0].register_entry.data.bitstring.strip(b"\0")
