"""The server over gRPC on loopback: sessions, pipelines, batches, and what it sends by itself."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from switchml.control.tls import ServerTls
from switchml.errors import PortInUseError, UsageError
from switchml.p4runtime.entries import ActionCall, Digest, Match, MatchKind, PacketIn, TableEntry
from switchml.p4runtime.stubs import code_pb2, p4runtime_pb2_grpc, status_pb2
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.p4runtime_server import P4RuntimeServer, serve

TABLE = 33554433
DIGEST = 385875969


def table_entry(number: int, table: int = TABLE) -> Any:
    entity = pb.Entity()
    entry = entity.table_entry
    entry.table_id = table
    entry.match.add(field_id=1).exact.value = bytes([number])
    entry.match.add(field_id=2).exact.value = b"\x01"
    entry.action.action.action_id = 16777218
    return entity


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return str(raised.value.code().name)


# Sessions


def test_primary_and_backup(connect: Any) -> None:
    first, second = connect(), connect()
    assert first.arbitrate(1) == code_pb2.OK
    assert second.arbitrate(0) == code_pb2.ALREADY_EXISTS
    assert second.arbitrate(1 << 64) == code_pb2.OK
    told = first.receive().arbitration
    assert told.status.code == code_pb2.ALREADY_EXISTS
    assert (told.election_id.high, told.election_id.low) == (1, 0)
    second.hang_up()
    told = first.receive().arbitration
    assert told.status.code == code_pb2.NOT_FOUND
    assert (told.election_id.high, told.election_id.low) == (1, 0)


def test_a_cancelled_stream_is_a_client_gone(connect: Any) -> None:
    first, second = connect(), connect()
    first.arbitrate(5)
    second.arbitrate(None)
    first.channel.close()
    assert second.receive().arbitration.status.code == code_pb2.NOT_FOUND


@pytest.mark.parametrize(
    ("election_id", "options", "code"),
    [(1, {}, "INVALID_ARGUMENT"), (2, {"device_id": 8}, "NOT_FOUND")],
)
def test_refused_newcomers_lose_their_stream(connect: Any, election_id: int, options: Any, code: str) -> None:
    connect().arbitrate(1)
    newcomer = connect()
    assert code_of(lambda: newcomer.arbitrate(election_id, **options)) == code


def test_role_configurations_are_refused(connect: Any) -> None:
    client = connect()
    request = pb.StreamMessageRequest()
    request.arbitration.device_id = 7
    request.arbitration.role.name = "x"
    request.arbitration.role.config.SetInParent()
    client.send(request)
    assert code_of(client.receive) == "INVALID_ARGUMENT"


def test_only_the_primary_writes(connect: Any, primary: Any) -> None:
    backup = connect()
    backup.arbitrate(0)
    write = lambda: backup.write(("INSERT", table_entry(1)))  # noqa: E731
    assert code_of(write) == "PERMISSION_DENIED"
    backup.election_id = None
    assert code_of(write) == "PERMISSION_DENIED"
    backup.role = "unknown"
    assert code_of(write) == "NOT_FOUND"
    primary.write(("INSERT", table_entry(1)))
    assert backup.read(table_entry(1)) == [table_entry(1)]
    primary.hang_up()
    assert code_of(lambda: primary.write(("INSERT", table_entry(2)))) == "PERMISSION_DENIED"


def test_a_role_has_a_primary_of_its_own(connect: Any, primary: Any) -> None:
    other = connect()
    assert other.arbitrate(1, role="telemetry") == code_pb2.OK
    other.write(("INSERT", table_entry(1)))
    primary.write(("INSERT", table_entry(2)))
    assert len(primary.read(pb.Entity(table_entry=pb.TableEntry(table_id=TABLE)))) == 2


# Pipelines


def test_there_is_no_pipeline_at_first(connect: Any, info: Any) -> None:
    client = connect()
    client.arbitrate(1)
    assert code_of(lambda: client.write(("INSERT", table_entry(1)))) == "FAILED_PRECONDITION"
    assert code_of(lambda: client.read(table_entry(1))) == "FAILED_PRECONDITION"
    reply = client.stub.GetForwardingPipelineConfig(pb.GetForwardingPipelineConfigRequest(device_id=7))
    assert not reply.HasField("config")


@pytest.mark.parametrize(
    ("response", "fields"),
    [
        ("ALL", {"p4info", "p4_device_config", "cookie"}),
        ("COOKIE_ONLY", {"cookie"}),
        ("P4INFO_AND_COOKIE", {"p4info", "cookie"}),
        ("DEVICE_CONFIG_AND_COOKIE", {"p4_device_config", "cookie"}),
    ],
)
def test_the_pipeline_comes_back(primary: Any, info: Any, response: str, fields: set[str]) -> None:
    primary.set_pipeline(info, b"other program", cookie=99)
    config = primary.stub.GetForwardingPipelineConfig(
        pb.GetForwardingPipelineConfigRequest(device_id=7, response_type=response)
    ).config
    assert {field.name for field, _ in config.ListFields()} == fields
    assert config.cookie.cookie == 99
    assert config.p4info in (info, type(info)())
    assert config.p4_device_config in (b"other program", b"")


def test_verify_save_commit(primary: Any, device: Any, info: Any) -> None:
    primary.write(("INSERT", table_entry(1)))
    assert code_of(lambda: primary.set_pipeline(None, action="COMMIT")) == "NOT_FOUND"
    primary.set_pipeline(info, b"new", action="VERIFY")
    assert device.config == b"program"
    primary.set_pipeline(info, b"new", action="VERIFY_AND_SAVE")
    assert device.config == b"program"
    assert code_of(lambda: primary.read(table_entry(1))) == "UNIMPLEMENTED"
    assert code_of(lambda: primary.set_pipeline(info, action="COMMIT")) == "INVALID_ARGUMENT"
    primary.set_pipeline(None, action="COMMIT")
    assert device.config == b"new"
    assert primary.read(table_entry(1)) == []
    assert code_of(lambda: primary.set_pipeline(None, action="COMMIT")) == "NOT_FOUND"


def test_reconcile_keeps_the_state_of_the_same_pipeline(primary: Any, device: Any, info: Any) -> None:
    primary.write(("INSERT", table_entry(1)))
    primary.set_pipeline(info, action="RECONCILE_AND_COMMIT", cookie=5)
    assert primary.read(table_entry(1)) == [table_entry(1)]
    assert device.commits == 1
    other = lambda: primary.set_pipeline(info, b"other", "RECONCILE_AND_COMMIT")  # noqa: E731
    assert code_of(other) == "UNIMPLEMENTED"


def test_refused_pipelines(connect: Any, primary: Any, device: Any, info: Any) -> None:
    for action in ("VERIFY", "VERIFY_AND_SAVE", "VERIFY_AND_COMMIT"):
        assert code_of(lambda a=action: primary.set_pipeline(info, b"broken", a)) == "INVALID_ARGUMENT"
        assert code_of(lambda a=action: primary.set_pipeline(None, action=a)) == "INVALID_ARGUMENT"
    assert code_of(lambda: primary.set_pipeline(info, action="UNSPECIFIED")) == "INVALID_ARGUMENT"
    info.tables[0].action_refs.add(id=12345)
    assert code_of(lambda: primary.set_pipeline(info)) == "INVALID_ARGUMENT"
    backup = connect()
    backup.arbitrate(0)
    assert code_of(lambda: backup.set_pipeline(info)) == "PERMISSION_DENIED"
    assert device.config == b"program"


def test_a_pipeline_that_was_there_before_is_served(device: Any, info: Any) -> None:
    device.commit(info.SerializeToString(), b"preloaded")
    with serve(device) as server, grpc.insecure_channel(server.address) as channel:
        stub = p4runtime_pb2_grpc.P4RuntimeStub(channel)
        config = stub.GetForwardingPipelineConfig(pb.GetForwardingPipelineConfigRequest(device_id=7)).config
        assert config.p4info == info
        assert config.p4_device_config == b"preloaded"
        assert not config.HasField("cookie")
        assert device.runtime.digest is not None
    assert device.runtime.digest is None


# Batches


def details(error: Any) -> list[Any]:
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert status.code == code_pb2.UNKNOWN
    assert status.message == error.details()
    errors = []
    for each in status.details:
        errors.append(pb.Error())
        assert each.Unpack(errors[-1])
    return errors


def test_a_write_goes_on_after_errors_and_names_each(primary: Any) -> None:
    primary.write(("INSERT", table_entry(1)))
    with pytest.raises(grpc.RpcError) as raised:
        primary.write(
            ("INSERT", table_entry(2)),
            ("INSERT", table_entry(1)),
            ("INSERT", table_entry(3)),
            ("DELETE", table_entry(9)),
        )
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    errors = details(raised.value)
    assert [error.canonical_code for error in errors] == [
        code_pb2.OK,
        code_pb2.ALREADY_EXISTS,
        code_pb2.OK,
        code_pb2.NOT_FOUND,
    ]
    assert [bool(error.message) for error in errors] == [False, True, False, True]
    assert len(primary.read(pb.Entity(table_entry=pb.TableEntry(table_id=TABLE)))) == 3


def test_a_read_returns_what_it_can(primary: Any) -> None:
    primary.write(("INSERT", table_entry(1)))
    found = []
    request = pb.ReadRequest(
        device_id=7,
        entities=[
            pb.Entity(),
            table_entry(1),
            pb.Entity(counter_entry=pb.CounterEntry(counter_id=5)),
        ],
    )
    responses = primary.stub.Read(request)
    found.extend(next(responses).entities)
    with pytest.raises(grpc.RpcError) as raised:
        next(responses)
    assert found == [table_entry(1)]
    assert [error.canonical_code for error in details(raised.value)] == [
        code_pb2.INVALID_ARGUMENT,
        code_pb2.OK,
        code_pb2.NOT_FOUND,
    ]


def test_the_errors_of_a_long_batch_fit_what_clients_take(primary: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        primary.write(*[("DELETE", table_entry(number)) for number in range(100)])
    errors = details(raised.value)
    assert [error.canonical_code for error in errors] == [code_pb2.NOT_FOUND] * 100
    assert errors[0].message


def test_other_atomicities_are_refused(primary: Any) -> None:
    for atomicity in (1, 2):
        write = lambda a=atomicity: primary.write(("INSERT", table_entry(1)), atomicity=a)  # noqa: E731
        assert code_of(write) == "UNIMPLEMENTED"
    assert primary.read(table_entry(1)) == []


def test_a_large_read_comes_in_pieces(primary: Any, info: Any) -> None:
    for register in info.registers:
        register.size = 50_000
    primary.set_pipeline(info)
    responses = list(
        primary.stub.Read(
            pb.ReadRequest(device_id=7, entities=[pb.Entity(register_entry=pb.RegisterEntry())])
        )
    )
    assert len(responses) > 1
    assert sum(len(response.entities) for response in responses) == 100_000


# What a device says by itself


def wait_for(client: Any, kind: str) -> Any:
    response = client.receive()
    assert response.WhichOneof("update") == kind
    return getattr(response, kind)


def test_packets_in_and_out(connect: Any, primary: Any, device: Any) -> None:
    backup = connect()
    backup.arbitrate(0)
    device.runtime.packet_in(PacketIn(b"hello", {"ingress_port": 300, "reason": 1}))
    packet = wait_for(primary, "packet")
    assert packet.payload == b"hello"
    assert [(each.metadata_id, each.value) for each in packet.metadata] == [
        (1, b"\x01\x2c"),
        (2, b"\x01"),
    ]
    request = pb.StreamMessageRequest()
    request.packet.payload = b"out"
    request.packet.metadata.add(metadata_id=1, value=b"\x00\x03")
    primary.send(request)
    backup.send(request)
    error = wait_for(backup, "error")
    assert error.canonical_code == code_pb2.PERMISSION_DENIED
    assert error.packet_out.packet_out == request.packet
    for metadata_id, value, code in (
        (7, b"\x01", code_pb2.INVALID_ARGUMENT),
        (1, b"\x02\x00", code_pb2.OUT_OF_RANGE),
    ):
        request.packet.metadata[0].metadata_id = metadata_id
        request.packet.metadata[0].value = value
        primary.send(request)
        assert wait_for(primary, "error").canonical_code == code
    del request.packet.metadata[:]
    primary.send(request)
    assert wait_for(primary, "error").canonical_code == code_pb2.INVALID_ARGUMENT
    assert device.runtime.packets_out == [(b"out", {"egress_port": 3})]
    assert backup.silent()


def test_digests(primary: Any, device: Any) -> None:
    device.runtime.digest(Digest("learn_t", (1, 2)))  # nobody has asked
    entity = pb.Entity()
    entity.digest_entry.digest_id = DIGEST
    entity.digest_entry.config.max_list_size = 2
    entity.digest_entry.config.max_timeout_ns = 100_000_000
    entity.digest_entry.config.ack_timeout_ns = 60_000_000_000
    primary.write(("INSERT", entity))
    for mac in (1, 1, 0xAABBCCDDEEFF):
        device.runtime.digest(Digest("learn_t", (mac, 2)))
    full = wait_for(primary, "digest")
    assert full.digest_id == DIGEST
    assert [[leaf.bitstring for leaf in each.struct.members] for each in full.data] == [
        [b"\x01", b"\x02"],
        [bytes.fromhex("aabbccddeeff"), b"\x02"],
    ]
    device.runtime.digest(Digest("learn_t", (1, 2)))  # not acknowledged, so not repeated
    device.runtime.digest(Digest("learn_t", (3, 4)))
    late = wait_for(primary, "digest")  # by its time
    assert [each.struct.members[0].bitstring for each in late.data] == [b"\x03"]
    assert late.list_id != full.list_id

    request = pb.StreamMessageRequest()
    request.digest_ack.digest_id = DIGEST
    request.digest_ack.list_id = full.list_id
    primary.send(request)
    request.digest_ack.digest_id = 5
    primary.send(request)  # its refusal shows that the one before was taken
    assert wait_for(primary, "error").canonical_code == code_pb2.INVALID_ARGUMENT
    device.runtime.digest(Digest("learn_t", (1, 2)))
    assert wait_for(primary, "digest").data[0].struct.members[0].bitstring == b"\x01"


def test_idle_entries(primary: Any, device: Any) -> None:
    key = {"hdr.h.a": Match(MatchKind.EXACT, 1), "hdr.h.b": Match(MatchKind.EXACT, 1)}
    entry = TableEntry(key, ActionCall("Ingress.drop"), idle_timeout_ns=1000, metadata=b"m")
    device.runtime.idle("Ingress.exact", entry)
    told = wait_for(primary, "idle_timeout_notification")
    assert told.timestamp > 0
    wanted = table_entry(1).table_entry
    wanted.idle_timeout_ns = 1000
    wanted.metadata = b"m"
    assert list(told.table_entry) == [wanted]


def test_a_new_pipeline_is_listened_to(primary: Any, device: Any, info: Any) -> None:
    before = device.runtime
    primary.set_pipeline(info)
    assert before.packet_in is None
    device.runtime.packet_in(PacketIn(b"x"))
    assert wait_for(primary, "packet").payload == b"x"


def test_a_flood_is_dropped_not_kept(primary: Any, device: Any) -> None:
    for _ in range(50_000):
        device.runtime.packet_in(PacketIn(b"x"))
    assert wait_for(primary, "packet").payload == b"x"
    primary.write(("INSERT", table_entry(1)))
    assert primary.read(table_entry(1)) == [table_entry(1)]


# The server


def test_capabilities(connect: Any) -> None:
    client = connect()
    assert client.stub.Capabilities(pb.CapabilitiesRequest()).p4runtime_api_version.startswith("1.")


def test_unknown_devices(primary: Any) -> None:
    assert code_of(lambda: primary.read(table_entry(1), device_id=8)) == "NOT_FOUND"
    get = pb.GetForwardingPipelineConfigRequest(device_id=8)
    assert code_of(lambda: primary.stub.GetForwardingPipelineConfig(get)) == "NOT_FOUND"
    assert code_of(lambda: primary.stub.Write(pb.WriteRequest(device_id=8))) == "NOT_FOUND"


def test_a_taken_port(server: P4RuntimeServer, device: Any) -> None:
    with pytest.raises(PortInUseError, match=str(server.port)):
        serve(device, port=server.port)
    with pytest.raises(UsageError):
        serve(device, host="192.0.2.1")


def test_tls(device: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    trusting = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with serve(device, tls=ServerTls(tmp_path / "certificate", tmp_path / "key")) as server:
        with grpc.secure_channel(server.address, trusting) as channel:
            stub = p4runtime_pb2_grpc.P4RuntimeStub(channel)
            assert stub.Capabilities(pb.CapabilitiesRequest(), timeout=10).p4runtime_api_version
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            p4runtime_pb2_grpc.P4RuntimeStub(channel).Capabilities(pb.CapabilitiesRequest(), timeout=10)
    with pytest.raises(UsageError, match="missing"):
        serve(device, tls=ServerTls(tmp_path / "missing", tmp_path / "missing"))


def test_stop_ends_streams_and_frees_the_port(device: Any, connect: Any, server: P4RuntimeServer) -> None:
    client = connect()
    client.arbitrate(1)
    server.close()
    server.close()
    with pytest.raises(grpc.RpcError):
        client.receive()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))
