"""Clients that send nonsense, send a great deal, do not listen, all come at once or vanish; and faults of a pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

import grpc
import pytest

from switchml.control.bearer import bearer
from switchml.control.p4runtime.p4runtime_client import P4RuntimeClient
from switchml.p4runtime.entries import PacketIn
from switchml.p4runtime.stubs import code_pb2, status_pb2
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.p4runtime_server import P4RuntimeServer, serve

TABLE = 33554433
PATIENCE = 20.0  # seconds


def table_entry(number: int) -> Any:
    entity = pb.Entity()
    entity.table_entry.table_id = TABLE
    entity.table_entry.match.add(field_id=1).exact.value = number.to_bytes(4, "big")
    entity.table_entry.match.add(field_id=2).exact.value = b"\x01"
    entity.table_entry.action.action.action_id = 16777218
    return entity


def errors_of(error: Any) -> list[Any]:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    errors = []
    for each in status.details:
        errors.append(pb.Error())
        assert each.Unpack(errors[-1])
    return errors


def serves(client: Any) -> bool:
    """Is the server still there, with the pipeline?"""
    return len(client.read(pb.Entity(counter_entry=pb.CounterEntry(counter_id=301989889)))) == 8


@pytest.mark.parametrize("method", ["Write", "Read", "SetForwardingPipelineConfig", "Capabilities"])
def test_what_is_no_message_is_refused(primary: Any, method: str) -> None:
    plain = primary.channel.unary_unary(f"/p4.v1.P4Runtime/{method}")
    with pytest.raises(grpc.RpcError) as refused:
        plain(b"\xff\xff\xff\xff nonsense", timeout=PATIENCE)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert serves(primary)


def test_a_stream_of_nonsense_ends_and_leaves_the_others(primary: Any) -> None:
    plain = primary.channel.stream_stream("/p4.v1.P4Runtime/StreamChannel")
    with pytest.raises(grpc.RpcError) as refused:
        list(plain(iter([b"\xff\xff nonsense"]), timeout=PATIENCE))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    primary.write(("INSERT", table_entry(1)))
    assert serves(primary)


def test_a_stream_message_of_no_kind_is_reported(primary: Any) -> None:
    primary.send(pb.StreamMessageRequest())
    assert primary.receive().error.canonical_code == code_pb2.UNIMPLEMENTED
    assert serves(primary)


def test_a_giant_batch(connect: Any, info: Any) -> None:
    client = connect()
    client.arbitrate(1)
    info.tables[0].size = 10_000
    client.set_pipeline(info)
    client.write(*[("INSERT", table_entry(number)) for number in range(8_000)])
    assert len(client.read(pb.Entity(table_entry=pb.TableEntry(table_id=TABLE)))) == 8_000


def test_every_error_of_a_giant_batch_reaches_a_client_with_room_for_them(
    server: P4RuntimeServer, primary: Any
) -> None:
    request = pb.WriteRequest(device_id=7, election_id=pb.Uint128(low=1))
    for number in range(1500):
        request.updates.add(type="DELETE", entity=table_entry(number))
    room = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
    with grpc.insecure_channel(server.address, options=room) as channel:
        write = channel.unary_unary(
            "/p4.v1.P4Runtime/Write", request_serializer=pb.WriteRequest.SerializeToString
        )
        with pytest.raises(grpc.RpcError) as raised:
            write(request, timeout=PATIENCE)
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    assert "1500 of 1500 updates failed; number 0: NOT_FOUND" in raised.value.details()
    assert [error.canonical_code for error in errors_of(raised.value)] == [code_pb2.NOT_FOUND] * 1500
    with pytest.raises(grpc.RpcError):  # a client without: it learns that it failed, and no more
        primary.stub.Write(request, timeout=PATIENCE)
    assert serves(primary)


def test_a_fault_of_the_pipeline_is_one_requests_error(primary: Any, device: Any, caplog: Any) -> None:
    insert = device.runtime.insert

    def faulty(table: str, entry: Any) -> None:
        if len(device.runtime.entries(table)) == 1:
            raise ZeroDivisionError("oh")
        insert(table, entry)

    device.runtime.insert = faulty
    device.runtime.packet_out = lambda *_: 1 / 0
    with pytest.raises(grpc.RpcError) as raised:
        primary.write(("INSERT", table_entry(1)), ("INSERT", table_entry(2)), ("DELETE", table_entry(1)))
    codes = [error.canonical_code for error in errors_of(raised.value)]
    assert codes == [code_pb2.OK, code_pb2.INTERNAL, code_pb2.OK]
    request = pb.StreamMessageRequest()
    request.packet.metadata.add(metadata_id=1, value=b"\1")
    primary.send(request)
    assert primary.receive().error.canonical_code == code_pb2.INTERNAL
    assert "ZeroDivisionError" in caplog.text
    assert serves(primary)


def test_many_clients_at_once(connect: Any, primary: Any, info: Any) -> None:
    """Each takes the lead, writes until the next has taken it, and reads: nothing hangs, and writes are the primary's."""
    info.tables[0].size = 10_000
    primary.set_pipeline(info)
    clients = [connect() for _ in range(12)]
    written: list[int] = []
    refused: list[str] = []

    def work(number: int, client: Any) -> None:
        client.ask(100 + number)
        for each in range(15):
            try:
                client.write(("INSERT", table_entry(number * 100 + each)))
                written.append(number * 100 + each)
            except grpc.RpcError as error:
                refused.append(error.code().name)
            client.read(table_entry(number * 100 + each))

    threads = [threading.Thread(target=work, args=each) for each in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert set(refused) <= {"PERMISSION_DENIED"}
    assert written
    found = primary.read(pb.Entity(table_entry=pb.TableEntry(table_id=TABLE)))
    assert len(found) == len(written)


LISTENER = """
import sys, grpc
from switchml.p4runtime.stubs import p4runtime_pb2 as pb, p4runtime_pb2_grpc
request = pb.StreamMessageRequest()
request.arbitration.device_id = 7
request.arbitration.election_id.low = 9
def requests():
    yield request
    import time; time.sleep(60)
stream = p4runtime_pb2_grpc.P4RuntimeStub(grpc.insecure_channel(sys.argv[1])).StreamChannel(requests())
print(next(stream).arbitration.status.code, flush=True)
import time; time.sleep(60)
"""


def test_a_killed_client_is_a_client_gone(server: P4RuntimeServer, primary: Any, device: Any) -> None:
    """Killed while messages are on their way to it, which it does not read."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER, server.address], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "0\n"
            assert primary.receive().arbitration.status.code == code_pb2.ALREADY_EXISTS
            for _ in range(5000):
                device.runtime.packet_in(PacketIn(bytes(1000)))
        finally:
            process.kill()
    assert primary.receive().arbitration.status.code == code_pb2.NOT_FOUND
    assert primary.arbitrate(10) == code_pb2.OK
    primary.write(("INSERT", table_entry(1)))


def test_stop_has_a_deadline(device: Any, info: Any, connect: Any) -> None:
    """With streams open, one of whose clients does not read, and packets still coming."""
    with serve(device) as server, grpc.insecure_channel(server.address) as channel:
        device.commit(info.SerializeToString(), b"program")
        stream = channel.stream_stream(
            "/p4.v1.P4Runtime/StreamChannel", request_serializer=pb.StreamMessageRequest.SerializeToString
        )
        request = pb.StreamMessageRequest()
        request.arbitration.device_id = 7
        request.arbitration.election_id.low = 1
        done = threading.Event()

        def requests() -> Any:
            yield request
            done.wait(PATIENCE)

        responses = stream(requests())
        next(responses)
        began = time.monotonic()
        server.close(0.2)
        took = time.monotonic() - began
        done.set()
        responses.cancel()
    assert took < 5.0  # the deadline that `stop` has beside its grace


@pytest.mark.parametrize("token", ["secret", "zwei Wörter, 100%"])
def test_without_the_token_nothing_is_answered(device: Any, info: Any, token: str) -> None:
    with serve(device, token=token) as server, grpc.insecure_channel(server.address) as channel:
        wrong: list[Any] = [(), (("authorization", "secre"),), bearer(token + "x")]
        for metadata in wrong:
            for method in ("Write", "Read", "SetForwardingPipelineConfig", "Capabilities"):
                with pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary(f"/p4.v1.P4Runtime/{method}")(
                        b"", timeout=PATIENCE, metadata=metadata
                    )
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            stream = channel.stream_stream("/p4.v1.P4Runtime/StreamChannel")
            with pytest.raises(grpc.RpcError) as refused:
                list(stream(iter([]), timeout=PATIENCE, metadata=metadata))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with P4RuntimeClient(server.address, device_id=device.device_id, token=token) as client:
            client.load(info, b"{}")
            assert not list(client.entries(client.schema.tables.get(TABLE).name))
