"""The public SwitchML program's services, called with stubs of its own proto, and its packets through the emulator."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest

from switchml.control import reference_pb2 as pb
from switchml.control.client import ControlClient
from switchml.control.control_messages import JobStatus
from switchml.control.controller import Controller
from switchml.control.reference import CLIENT_PORT, Sessions
from switchml.control.reference_pb2_grpc import SessionStub, SyncStub
from switchml.errors import PortInUseError
from switchml.protocol.messages import UDP_PORT_FIRST
from switchml.switch_emulator.emulator import Emulator

Switch = TypeVar("Switch")
HEADER = struct.Struct("!BBIHbb")
TIMEOUT = 20.0
RESEND = 1.0


class Client:
    """A client as the public one is: two stubs, one UDP port, packets numbered from 0 in every tensor."""

    def __init__(self, control: str, address: str, rank: int, workers: int, session: int = 7) -> None:
        self.address, self.rank, self.workers, self.session = address, rank, workers, session
        self.channel = grpc.insecure_channel(control)
        self.sync, self.sessions = SyncStub(self.channel), SessionStub(self.channel)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, CLIENT_PORT))
        self.socket.settimeout(RESEND)
        self.switch = ("", 0)
        self.shift = 0

    def request(self, packet_size: pb.PacketSize.ValueType = pb.MTU_256) -> pb.UdpSessionRequest:
        return pb.UdpSessionRequest(
            session_id=self.session,
            rank=self.rank,
            num_workers=self.workers,
            mac=0x020000000000 + self.rank,
            ipv4=int(ipaddress.IPv4Address(self.address)),
            packet_size=packet_size,
        )

    def barrier(self) -> None:
        self.sync.Barrier(pb.BarrierRequest(num_workers=self.workers), timeout=TIMEOUT)

    def set_up(self) -> None:
        """Rank 0 first, the others after it, and nobody goes on before all are known."""
        if self.rank != 0:
            self.barrier()
        answer = self.sessions.UdpSession(self.request(), timeout=TIMEOUT)
        if self.rank == 0:
            self.barrier()
        assert answer.session_id == self.session
        self.switch = (str(ipaddress.IPv4Address(answer.ipv4)), UDP_PORT_FIRST)
        self.barrier()

    def allreduce(self, tensor: Sequence[int], job: int, outstanding: int = 4) -> list[int]:
        """The published worker loop: `outstanding` slots, then a packet for every result; the slots go on where the last
        tensor left them.
        """
        chunks = [list(tensor[at : at + 64]) for at in range(0, len(tensor), 64)]
        results: list[list[int]] = [[] for _ in chunks]
        missing = set(range(len(chunks)))
        flying = set(range(min(outstanding, len(chunks))))
        for chunk in flying:
            self.send(chunk, chunks[chunk], job, outstanding)
        deadline = time.monotonic() + TIMEOUT
        while missing:
            assert time.monotonic() < deadline, f"no result for {sorted(missing)}"
            try:
                packet = self.socket.recv(2048)
            except TimeoutError:  # as the public client does when it is built with TIMEOUTS=1
                for chunk in flying:
                    self.send(chunk, chunks[chunk], job, outstanding)
                continue
            kind, number, _, _, _, _ = HEADER.unpack_from(packet)
            (chunk,) = struct.unpack_from("<I", packet, 2)  # host order, as it was sent
            assert (kind, number) == (0x11, job)
            if chunk not in flying:  # a result that came twice
                continue
            results[chunk] = np.frombuffer(packet, ">i4", offset=HEADER.size).tolist()
            missing.discard(chunk)
            flying.discard(chunk)
            if chunk + outstanding < len(chunks):
                flying.add(chunk + outstanding)
                self.send(chunk + outstanding, chunks[chunk + outstanding], job, outstanding)
        self.shift = (self.shift + len(chunks)) % (2 * outstanding)
        return list(itertools.chain.from_iterable(results))

    def send(self, chunk: int, elements: Sequence[int], job: int, outstanding: int) -> None:
        index = (chunk + self.shift) % (2 * outstanding)
        pool = index if index < outstanding else (index - outstanding) | 0x8000
        header = bytearray(HEADER.pack(0x11, job, 0, pool, -3, 0))
        struct.pack_into("<I", header, 2, chunk)
        self.socket.sendto(bytes(header) + np.array(elements, ">i4").tobytes(), self.switch)

    def close(self) -> None:
        self.socket.close()
        self.channel.close()


def on_their_port(switch_on: Callable[[str], Switch]) -> Switch:
    """A switch on an address with the port that the public clients send to."""
    for octet in range(20, 40):
        try:
            return switch_on(f"127.7.0.{octet}")
        except PortInUseError:
            continue
    pytest.fail(f"UDP port {UDP_PORT_FIRST} is taken on 20 addresses")


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with on_their_port(lambda address: Emulator(address, udp_port=UDP_PORT_FIRST)) as switch:
        yield switch


@pytest.fixture
def clients(emulator: Emulator) -> Iterator[list[Client]]:
    made = [Client(emulator.control_address, f"127.7.1.{rank + 1}", rank, 3) for rank in range(3)]
    yield made
    for client in made:
        client.close()


def test_its_clients_sum_tensors(clients: list[Client], emulator: Emulator) -> None:
    sum_three_tensors(clients)
    job = the_job(emulator.control_address)
    assert job.counters["chunks_completed"] == 30
    assert job.counters["dropped_wrong_job"] == 0


def test_the_p4_program_serves_them_too() -> None:
    pytest.importorskip(
        "google.rpc.status_pb2",
        reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'",
    )
    from switchml.switch_emulator.p4_emulator import P4UdpEmulator, read_program

    program = read_program(Path(__file__).parents[2] / "p4" / "build" / "switchml_64.json")
    with ExitStack() as stack:
        switch = stack.enter_context(
            on_their_port(lambda address: P4UdpEmulator(program, address, udp_port=UDP_PORT_FIRST))
        )
        clients = [
            stack.enter_context(closing(Client(switch.control_address, f"127.7.1.{rank + 1}", rank, 3)))
            for rank in range(3)
        ]
        sum_three_tensors(clients)
        job = the_job(switch.control_address)
    assert job.counters["chunks_completed"] == 30
    assert job.counters["dropped_wrong_job"] == 0


def sum_three_tensors(clients: list[Client]) -> None:
    tensors = [[(rank + 1) * (at - 300) for at in range(640)] for rank in range(3)]
    wanted = [6 * (at - 300) for at in range(640)]

    def work(client: Client) -> list[list[int]]:
        client.set_up()
        # Its jobs are tensors: the number in the packets changes, the session does not.
        return [client.allreduce(tensors[client.rank], job) for job in (1, 2, 3)]

    with ThreadPoolExecutor(3) as pool:
        for results in pool.map(work, clients):
            assert results == [wanted] * 3


def the_job(control: str) -> JobStatus:
    with ControlClient(control) as client:
        (job,) = client.status().jobs
    assert (job.state, job.paper, job.payload, job.world_size) == ("running", True, 256, 3)
    return job


def test_rank_0_begins_a_session_anew(clients: list[Client], emulator: Emulator) -> None:
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(Client.set_up, clients))
        assert len(emulator.controller.status().jobs) == 1
    clients[0].sessions.UdpSession(clients[0].request(), timeout=TIMEOUT)
    (job,) = emulator.controller.status().jobs
    assert (job.state, len(job.members)) == ("joining", 1)


def test_a_broadcast_goes_to_all(clients: list[Client]) -> None:
    def call(client: Client) -> int:
        request = pb.BroadcastRequest(value=100 + client.rank, rank=client.rank, num_workers=3, root=2)
        return client.sync.Broadcast(request, timeout=TIMEOUT).value

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(call, clients)) == [102, 102, 102]


def test_a_caller_that_gives_up_is_not_counted(clients: list[Client]) -> None:
    with pytest.raises(grpc.RpcError):
        clients[0].sync.Barrier(pb.BarrierRequest(num_workers=2), timeout=0.3)
    late = clients[1].sync.Barrier.future(pb.BarrierRequest(num_workers=2), timeout=0.5)
    with pytest.raises(grpc.RpcError) as error:
        late.result()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]


def test_there_is_no_rdma(clients: list[Client]) -> None:
    with pytest.raises(grpc.RpcError, match="no RDMA") as error:
        clients[0].sessions.RdmaSession(pb.RdmaSessionRequest(session_id=1, num_workers=1), timeout=TIMEOUT)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_a_worker_that_fits_no_session_is_refused(clients: list[Client]) -> None:
    clients[0].sessions.UdpSession(clients[0].request(), timeout=TIMEOUT)
    wrong = clients[1].request(pb.MTU_1024)
    with pytest.raises(grpc.RpcError, match="payload") as error:
        clients[1].sessions.UdpSession(wrong, timeout=TIMEOUT)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION  # type: ignore[attr-defined]


def test_a_switch_on_another_port_says_so() -> None:
    with Emulator() as switch, grpc.insecure_channel(switch.control_address) as channel:
        request = pb.UdpSessionRequest(session_id=1, num_workers=1, ipv4=0x7F000001, packet_size=pb.MTU_256)
        with pytest.raises(grpc.RpcError, match="--port 48864"):
            SessionStub(channel).UdpSession(request, timeout=TIMEOUT)


def test_a_token_keeps_them_out() -> None:
    with Emulator(token="secret") as switch, grpc.insecure_channel(switch.control_address) as channel:
        with pytest.raises(grpc.RpcError) as error:
            SyncStub(channel).Barrier(pb.BarrierRequest(num_workers=1), timeout=TIMEOUT)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


def test_the_wire_contract_is_theirs() -> None:
    """Names and numbers of the public program's switchml.proto."""
    assert pb.DESCRIPTOR.package == "switchml_proto"
    fields = {
        name: {field.number: field.name for field in message.fields}
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    }
    assert fields["UdpSessionRequest"] == {
        1: "session_id", 2: "rank", 3: "num_workers", 4: "mac", 5: "ipv4", 7: "packet_size",
    }  # fmt: skip
    assert fields["UdpSessionResponse"] == {1: "session_id", 2: "mac", 3: "ipv4"}
    assert fields["RdmaSessionRequest"] == {
        1: "session_id", 2: "rank", 3: "num_workers", 4: "mac", 5: "ipv4", 6: "rkey", 7: "packet_size", 8: "message_size",
        9: "qpns", 10: "psns",
    }  # fmt: skip
    assert fields["RdmaSessionResponse"] == {
        1: "session_id", 2: "mac", 3: "ipv4", 4: "rkey", 5: "qpns", 6: "psns",
    }  # fmt: skip
    assert fields["BarrierRequest"] == {1: "num_workers"}
    assert fields["BroadcastRequest"] == {1: "value", 2: "rank", 3: "num_workers", 4: "root"}
    assert fields["BroadcastResponse"] == {1: "value"}
    methods = {
        service: [method.name for method in each.methods]
        for service, each in pb.DESCRIPTOR.services_by_name.items()
    }
    assert methods == {"Session": ["RdmaSession", "UdpSession"], "Sync": ["Barrier", "Broadcast"]}


def test_a_client_that_numbers_its_session_anew_replaces_its_old_one(target: Any) -> None:
    """Two sessions of one address would each get the other's results; the public client never says that one is over."""
    controller = Controller(target)
    sessions = Sessions(controller, lambda: None)

    def add(number: int, address: str) -> None:
        ipv4 = int(ipaddress.IPv4Address(address))
        sessions.add(
            pb.UdpSessionRequest(session_id=number, rank=0, num_workers=1, ipv4=ipv4, packet_size=pb.MTU_256)
        )

    add(7, "10.0.0.1")
    add(8, "10.0.0.2")
    add(9, "10.0.0.1")
    names = [job.name for job in controller.status().jobs]
    assert names == ["reference session 8", "reference session 9"]
