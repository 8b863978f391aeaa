"""A device that is nothing but tables, its P4Info, and clients to speak to its server."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip(
    "google.rpc.status_pb2", reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'"
)

from google.protobuf import text_format

from switchml.p4runtime.entries import (
    ActionCall,
    CloneSession,
    CounterValue,
    Digest,
    GroupMember,
    Match,
    MeterRates,
    PacketIn,
    Replica,
    TableEntry,
)
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.p4runtime.schema import Schema
from switchml.p4runtime.stubs import p4info_pb2, p4runtime_pb2_grpc
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.p4runtime_server import P4RuntimeServer, serve
from switchml.switch_emulator.runtime import Runtime

DEVICE_ID = 7
PATIENCE = 30.0  # seconds
Key = Mapping[str, Match]


class MemoryRuntime(Runtime):
    """Keeps what it is told, and refuses what any runtime refuses."""

    def __init__(self, info: Any) -> None:
        self._sizes = {table.preamble.name: table.size for table in info.tables}
        self._entries: dict[str, dict[Any, TableEntry]] = {name: {} for name in self._sizes}
        self._defaults: dict[str, ActionCall] = {}
        self._counters = {c.preamble.name: [CounterValue()] * c.size for c in info.counters}
        self._meters: dict[tuple[str, int], MeterRates] = {}
        self._registers = {r.preamble.name: [0] * r.size for r in info.registers}
        self._direct_counters: dict[Any, CounterValue] = {}
        self._direct_meters: dict[Any, MeterRates] = {}
        self._members: dict[int, ActionCall] = {}
        self._groups: dict[int, tuple[GroupMember, ...]] = {}
        self._multicast: dict[int, tuple[Replica, ...]] = {}
        self._clones: dict[int, CloneSession] = {}
        self.value_sets: dict[str, Any] = {}
        self.packets_out: list[tuple[bytes, dict[str, int]]] = []
        self.digest: Callable[[Digest], None] | None = None
        self.packet_in: Callable[[PacketIn], None] | None = None
        self.idle: Callable[[str, TableEntry], None] | None = None

    def add_constant(self, table: str, entry: TableEntry) -> None:
        self._entries[table][self._name(entry.key, entry.priority)] = entry

    @staticmethod
    def _name(key: Key, priority: int) -> Any:
        return frozenset(key.items()), priority

    def _present(self, table: str, key: Key, priority: int) -> Any:
        name = self._name(key, priority)
        if name not in self._entries[table]:
            raise RuntimeRequestError("NOT_FOUND", f"table {table} has no such entry")
        return name

    def insert(self, table: str, entry: TableEntry) -> None:
        name = self._name(entry.key, entry.priority)
        if name in self._entries[table]:
            raise RuntimeRequestError("ALREADY_EXISTS", f"table {table} has that entry")
        if len(self._entries[table]) >= self._sizes[table]:
            raise RuntimeRequestError("RESOURCE_EXHAUSTED", f"table {table} is full")
        self._entries[table][name] = entry

    def modify(self, table: str, entry: TableEntry) -> None:
        self._entries[table][self._present(table, entry.key, entry.priority)] = entry

    def delete(self, table: str, key: Key, priority: int = 0) -> None:
        name = self._present(table, key, priority)
        del self._entries[table][name]
        self._direct_counters.pop((table, name), None)
        self._direct_meters.pop((table, name), None)

    def entries(self, table: str) -> Sequence[TableEntry]:
        return tuple(self._entries[table].values())

    def set_default(self, table: str, action: ActionCall | None) -> None:
        self._defaults[table] = action or ActionCall("NoAction")

    def default(self, table: str) -> ActionCall:
        return self._defaults.get(table, ActionCall("NoAction"))

    def read_direct_counter(self, table: str, key: Key, priority: int = 0) -> CounterValue:
        return self._direct_counters.get((table, self._present(table, key, priority)), CounterValue())

    def write_direct_counter(self, table: str, key: Key, value: CounterValue, priority: int = 0) -> None:
        self._direct_counters[table, self._present(table, key, priority)] = value

    def set_direct_meter(self, table: str, key: Key, rates: MeterRates | None, priority: int = 0) -> None:
        self._direct_meters.pop((table, self._present(table, key, priority)), None)
        if rates is not None:
            self._direct_meters[table, self._name(key, priority)] = rates

    def get_direct_meter(self, table: str, key: Key, priority: int = 0) -> MeterRates | None:
        return self._direct_meters.get((table, self._present(table, key, priority)))

    def time_since_last_hit(self, table: str, key: Key, priority: int = 0) -> int:
        self._present(table, key, priority)
        return 12_000

    def insert_member(self, profile: str, member: int, action: ActionCall) -> None:
        self._members[member] = action

    modify_member = insert_member

    def delete_member(self, profile: str, member: int) -> None:
        del self._members[member]

    def members(self, profile: str) -> Mapping[int, ActionCall]:
        return dict(self._members)

    def insert_group(
        self, profile: str, group: int, members: Sequence[GroupMember], max_size: int = 0
    ) -> None:
        self._groups[group] = tuple(members)

    def modify_group(self, profile: str, group: int, members: Sequence[GroupMember]) -> None:
        self._groups[group] = tuple(members)

    def delete_group(self, profile: str, group: int) -> None:
        del self._groups[group]

    def groups(self, profile: str) -> Mapping[int, Sequence[GroupMember]]:
        return dict(self._groups)

    def set_multicast_group(self, group: int, replicas: Sequence[Replica] | None) -> None:
        self._multicast.pop(group, None)
        if replicas is not None:
            self._multicast[group] = tuple(replicas)

    def multicast_groups(self) -> Mapping[int, Sequence[Replica]]:
        return dict(self._multicast)

    def set_clone_session(self, session: int, value: CloneSession | None) -> None:
        self._clones.pop(session, None)
        if value is not None:
            self._clones[session] = value

    def clone_sessions(self) -> Mapping[int, CloneSession]:
        return dict(self._clones)

    def read_counter(self, counter: str, index: int | None = None) -> Sequence[CounterValue]:
        cells = self._counters[counter]
        return tuple(cells) if index is None else (cells[index],)

    def write_counter(self, counter: str, index: int, value: CounterValue) -> None:
        self._counters[counter][index] = value

    def set_meter(self, meter: str, index: int, rates: MeterRates | None) -> None:
        self._meters.pop((meter, index), None)
        if rates is not None:
            self._meters[meter, index] = rates

    def get_meter(self, meter: str, index: int) -> MeterRates | None:
        return self._meters.get((meter, index))

    def read_register(self, register: str, index: int | None = None) -> Sequence[int]:
        cells = self._registers[register]
        return tuple(cells) if index is None else (cells[index],)

    def write_register(self, register: str, index: int | None, value: int) -> None:
        cells = self._registers[register]
        for cell in range(len(cells)) if index is None else (index,):
            cells[cell] = value

    def set_value_set(self, name: str, members: Sequence[Sequence[Match]]) -> None:
        self.value_sets[name] = members

    def on_digest(self, receive: Callable[[Digest], None] | None) -> None:
        self.digest = receive

    def on_packet_in(self, receive: Callable[[PacketIn], None] | None) -> None:
        self.packet_in = receive

    def on_idle_timeout(self, receive: Callable[[str, TableEntry], None] | None) -> None:
        self.idle = receive

    def packet_out(self, payload: bytes, metadata: Mapping[str, int]) -> None:
        self.packets_out.append((payload, dict(metadata)))


class MemoryDevice:
    """Takes any program but b"broken"."""

    def __init__(self, device_id: int = DEVICE_ID) -> None:
        self.device_id = device_id
        self.p4info = b""
        self.config = b""
        self.commits = 0
        self._runtime: MemoryRuntime | None = None

    @property
    def runtime(self) -> MemoryRuntime:
        if self._runtime is None:
            raise RuntimeRequestError("FAILED_PRECONDITION", "there is no pipeline")
        return self._runtime

    def verify(self, p4info: bytes, config: bytes) -> None:
        if config == b"broken":
            raise RuntimeRequestError("INVALID_ARGUMENT", "the program is broken")

    def commit(self, p4info: bytes, config: bytes) -> None:
        self.verify(p4info, config)
        self.p4info, self.config = p4info, config
        self._runtime = MemoryRuntime(p4info_pb2.P4Info.FromString(p4info))
        self.commits += 1


class StagingMemoryDevice(MemoryDevice):
    """Has room for a second pipeline."""

    def stage(self, p4info: bytes, config: bytes) -> MemoryRuntime:
        self.verify(p4info, config)
        return MemoryRuntime(p4info_pb2.P4Info.FromString(p4info))

    def install(self, p4info: bytes, config: bytes, runtime: MemoryRuntime) -> None:
        self.p4info, self.config, self._runtime = p4info, config, runtime


class Client:
    """A controller with a stream."""

    def __init__(self, address: str) -> None:
        # A channel of its own, as another process would have.
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = p4runtime_pb2_grpc.P4RuntimeStub(self.channel)
        self._requests: queue.Queue[Any] = queue.Queue()
        self._responses: queue.Queue[Any] = queue.Queue()
        self._call: Any = None
        self._thread: threading.Thread | None = None
        self.election_id: int | None = None
        self.role = ""

    def close(self) -> None:
        self.hang_up()
        self.channel.close()

    def hang_up(self) -> None:
        if self._thread is not None:
            self._requests.put(None)
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()
            self._thread = None

    def send(self, request: Any) -> None:
        if self._thread is None:
            self._call = self.stub.StreamChannel(iter(self._requests.get, None))
            self._thread = threading.Thread(target=self._receive, daemon=True)
            self._thread.start()
        copy = pb.StreamMessageRequest()  # what is sent later is not changed by then
        copy.CopyFrom(request)
        self._requests.put(copy)

    def _receive(self) -> None:
        try:
            for response in self._call:
                self._responses.put(response)
        except grpc.RpcError as error:
            self._responses.put(error)

    def receive(self) -> Any:
        """The next message of the stream. Raises its error when it has ended with one."""
        response = self._responses.get(timeout=PATIENCE)
        if isinstance(response, grpc.RpcError):
            raise response
        return response

    def silent(self, seconds: float = 0.2) -> bool:
        """Does nothing come in all that time?"""
        try:
            self._responses.put(self._responses.get(timeout=seconds))
        except queue.Empty:
            return True
        return False

    def ask(self, election_id: int | None, *, role: str = "", device_id: int = DEVICE_ID) -> None:
        """An arbitration update; the answer is left to `receive`."""
        request = pb.StreamMessageRequest()
        request.arbitration.device_id = device_id
        if role:
            request.arbitration.role.name = role
        self.role = role
        self.election_id = election_id
        if election_id is not None:
            request.arbitration.election_id.high = election_id >> 64
            request.arbitration.election_id.low = election_id & ((1 << 64) - 1)
        self.send(request)

    def arbitrate(self, election_id: int | None, **options: Any) -> int:
        """An arbitration update; the code of the answer."""
        self.ask(election_id, **options)
        return int(self.receive().arbitration.status.code)

    def _sign(self, request: Any) -> Any:
        request.device_id = DEVICE_ID
        request.role = self.role
        if self.election_id is not None:
            request.election_id.high = self.election_id >> 64
            request.election_id.low = self.election_id & ((1 << 64) - 1)
        return request

    def set_pipeline(
        self,
        info: Any,
        program: bytes = b"program",
        action: str = "VERIFY_AND_COMMIT",
        cookie: int | None = None,
    ) -> None:
        request = self._sign(
            pb.SetForwardingPipelineConfigRequest(
                action=pb.SetForwardingPipelineConfigRequest.Action.Value(action)
            )
        )
        if info is not None:
            request.config.p4info.CopyFrom(info)
            request.config.p4_device_config = program
            if cookie is not None:
                request.config.cookie.cookie = cookie
        self.stub.SetForwardingPipelineConfig(request, timeout=PATIENCE)

    def write(self, *updates: tuple[str, Any], atomicity: int = 0) -> None:
        """Updates as (type, entity)."""
        request = self._sign(pb.WriteRequest(atomicity=atomicity))
        for kind, entity in updates:
            request.updates.add(type=kind, entity=entity)
        self.stub.Write(request, timeout=PATIENCE)

    def read(self, *entities: Any, device_id: int = DEVICE_ID) -> list[Any]:
        request = pb.ReadRequest(device_id=device_id, entities=entities)
        return [
            entity for response in self.stub.Read(request, timeout=PATIENCE) for entity in response.entities
        ]


@pytest.fixture
def info() -> Any:
    """The P4Info that has one of each."""
    text = Path(__file__).with_name("everything.p4info.txtpb").read_text()
    return text_format.Parse(text, p4info_pb2.P4Info())


@pytest.fixture
def pipeline(info: Any) -> PipelineContext:
    return PipelineContext(Schema(info), MemoryRuntime(info))


@pytest.fixture
def device() -> MemoryDevice:
    return MemoryDevice()


@pytest.fixture
def staging_device() -> StagingMemoryDevice:
    return StagingMemoryDevice()


@pytest.fixture
def server(device: MemoryDevice) -> Iterator[P4RuntimeServer]:
    with serve(device) as server:
        yield server


@pytest.fixture
def connect(server: P4RuntimeServer) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def make() -> Client:
        clients.append(Client(server.address))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def primary(connect: Callable[[], Client], info: Any) -> Client:
    """A primary, with the pipeline in force."""
    client = connect()
    assert client.arbitrate(1) == 0
    client.set_pipeline(info)
    return client
