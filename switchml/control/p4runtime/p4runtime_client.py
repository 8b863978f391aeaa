"""A P4Runtime client: connection, arbitration, pipeline, reads and writes by name, digests.

Theory of operation
-------------------
Requests are plain calls with a deadline. One stream stays open besides: it makes this client the switch's primary controller,
and brings digests. A thread of its own reads the stream; it acknowledges every digest list and hands its messages on. When the
stream ends so does the client's hold of the switch: every later call raises SwitchUnreachableError. A client that another one
has displaced may still read; once nobody is primary any more it may take the switch back (`reclaim`).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import grpc

from switchml.closing import Closing
from switchml.control.address import PRIVATE, join_address, parse_address
from switchml.control.bearer import bearer
from switchml.control.exits import Stage, close_at_exit
from switchml.control.reach import unresolvable, why_unreachable
from switchml.control.tls import ClientTls, open_channel
from switchml.errors import InvalidTokenError, SwitchMLError, SwitchUnreachableError, TlsError, UsageError
from switchml.p4runtime.bytestrings import encode
from switchml.p4runtime.codec import entry_entity, key_entity, parse_digests, parse_entry, parse_key
from switchml.p4runtime.entries import CounterValue, Match, TableEntry
from switchml.p4runtime.refusals import NotPrimaryError, P4RuntimeError
from switchml.p4runtime.schema import Objects, Schema
from switchml.p4runtime.stubs import (
    code_pb2,
    p4runtime_pb2,
    p4runtime_pb2_grpc,
    status_pb2,
)

_log = logging.getLogger(__name__)

_STATUS_KEY = "grpc-status-details-bin"
_LOAD_SECONDS = 60.0  # a switch may compile what it is given
_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A failed batch is answered in metadata, a line an update.
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
]

OnDigest = Callable[[str, Mapping[str, int]], None]
"""A digest's name, and its values by field."""


class Change(Enum):
    """What an update does with its entity."""

    INSERT = "INSERT"
    MODIFY = "MODIFY"
    DELETE = "DELETE"


Update = tuple[Change, Any]
"""A change, and the p4.v1.Entity it is about."""

Row = tuple[str, TableEntry]
"""A table's name, and an entry of it."""


class P4RuntimeClient(Closing):
    """The primary controller of one switch. A context manager: `close` on exit. Thread-safe.

    Args:
        address: host:port, or unix-abstract:NAME.
        device_id: as the switch names itself.
        election_id: the controller with the highest is primary.
        timeout: seconds, of every call but the loading of a pipeline.
        token: shown as `authorization: Bearer TOKEN`; "" = none.
        tls: what to trust; None = in the clear.

    Raises:
        SwitchUnreachableError: nothing answers there within `timeout`.
        NotPrimaryError: another controller has the switch.
    """

    def __init__(
        self,
        address: str,
        *,
        device_id: int = 0,
        election_id: int = 1,
        timeout: float = 10.0,
        token: str = "",
        tls: ClientTls | None = None,
    ) -> None:
        if timeout <= 0:
            raise UsageError(f"timeout {timeout}: use a positive number of seconds")
        if address.startswith(PRIVATE):
            self.address = address
        else:
            host, port = parse_address(address)
            if (unresolved := unresolvable(host)) is not None:
                raise unresolved
            self.address = join_address(host, port)
        self._shown = bearer(token)
        self.device_id = device_id
        self._election = p4runtime_pb2.Uint128(high=election_id >> 64, low=election_id & (1 << 64) - 1)
        self._timeout = timeout
        self._schema: Schema | None = None
        self._receive: OnDigest | None = None
        self._closed = False
        self._lost = ""
        self._displaced = ""
        self._vacant = False
        self._claiming = False
        self._arbitrated: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._tls = tls
        self._channel = open_channel(self.address, tls, _OPTIONS)
        self._stub = p4runtime_pb2_grpc.P4RuntimeStub(self._channel)
        try:
            self._await_channel()
            self._stream: Any = self._stub.StreamChannel(iter(self._outgoing.get, None), metadata=self._shown)
            self._thread = threading.Thread(target=self._listen, name="switchml-p4runtime", daemon=True)
            self._thread.start()
            self._become_primary()
        except BaseException:
            self.close()
            raise
        _open_clients.add(self)

    @property
    def schema(self) -> Schema:
        """What the loaded program declares. Raises P4RuntimeError before there is one."""
        if self._schema is None:
            raise P4RuntimeError(
                f"the switch at {self.address} has no program; load one: --pipeline FILE.json --p4info FILE",
                "FAILED_PRECONDITION",
            )
        return self._schema

    @property
    def lost(self) -> str:
        """Why the switch is out of this client's hands; "" while it is not."""
        return self._lost or self._displaced

    @property
    def vacant(self) -> bool:
        """Whether another client had displaced this one, and is gone."""
        return bool(self._displaced) and self._vacant

    def reclaim(self) -> None:
        """Become primary again, with the election id of the client that is gone. What it left in the switch is there.

        Raises:
            SwitchUnreachableError: nothing answers.
            NotPrimaryError: another controller has the switch.
        """
        with contextlib.suppress(queue.Empty):
            while True:
                self._arbitrated.get_nowait()
        self.check_reachable()
        self._become_primary()

    def close(self) -> None:
        """Gives the switch up. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._lost = self._lost or "this client is closed"
        self._outgoing.put(None)
        if hasattr(self, "_thread"):
            # A handler of digests may be in the middle of a call.
            if threading.current_thread() is not self._thread:
                self._thread.join(0.2)
            self._stream.cancel()
        self._channel.close()
        if hasattr(self, "_thread") and threading.current_thread() is not self._thread:
            self._thread.join(self._timeout)
        _open_clients.discard(self)

    # The pipeline.

    def load(self, p4info: Any, config: bytes) -> None:
        """Put a program in force (VERIFY_AND_COMMIT): its tables and state are empty then. `config`: BMv2's JSON."""
        request = p4runtime_pb2.SetForwardingPipelineConfigRequest(
            device_id=self.device_id,
            election_id=self._election,
            action=p4runtime_pb2.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT,
            config=p4runtime_pb2.ForwardingPipelineConfig(p4info=p4info, p4_device_config=config),
        )
        self.check()
        self._call(self._stub.SetForwardingPipelineConfig, request, _LOAD_SECONDS)
        self._schema = Schema(p4info)

    def adopt(self) -> None:
        """Take the program that the switch has. Raises P4RuntimeError when it has none."""
        request = p4runtime_pb2.GetForwardingPipelineConfigRequest(
            device_id=self.device_id,
            response_type=p4runtime_pb2.GetForwardingPipelineConfigRequest.P4INFO_AND_COOKIE,
        )
        try:
            config = self._call(self._stub.GetForwardingPipelineConfig, request).config
        except P4RuntimeError as error:
            if not error.all_have_code("FAILED_PRECONDITION"):
                raise
            config = p4runtime_pb2.ForwardingPipelineConfig()
        self._schema = Schema(config.p4info) if config.HasField("p4info") else None
        _ = self.schema

    # Writing.

    def write(self, updates: Iterable[Update]) -> None:
        """Carry out updates in order, in one request. Raises P4RuntimeError naming each that failed; the others are done."""
        request = p4runtime_pb2.WriteRequest(device_id=self.device_id, election_id=self._election)
        for change, entity in updates:
            kind = p4runtime_pb2.Update.Type.Value(change.value)
            request.updates.append(p4runtime_pb2.Update(type=kind, entity=entity))
        if request.updates:
            self.check()
            self._call(self._stub.Write, request)

    def insert(self, *rows: Row) -> None:
        """Add entries, in one request. Raises as `write`."""
        self.write(self.updates(Change.INSERT, rows))

    def delete(self, *rows: Row) -> None:
        """Remove the entries that have these keys, in one request. Raises as `write`."""
        self.write(self.updates(Change.DELETE, rows))

    def updates(self, change: Change, rows: Iterable[Row]) -> list[Update]:
        """For `write`. Raises RuntimeRequestError for what the program has not."""
        if change is Change.DELETE:
            return [
                (change, key_entity(self.schema, table, entry.key, entry.priority)) for table, entry in rows
            ]
        return [(change, entry_entity(self.schema, table, entry)) for table, entry in rows]

    def write_register(self, register: str, values: Mapping[int, int]) -> None:
        """Values by index. Raises P4RuntimeError UNIMPLEMENTED on switches that have it not (BMv2)."""
        number = self.schema.registers.named(register).id
        self.write((Change.MODIFY, _register(number, index, value)) for index, value in values.items())

    # Reading.

    def read(self, *entities: Any) -> Iterator[Any]:
        """Every p4.v1.Entity that matches one of the given, whose empty fields match all."""
        request = p4runtime_pb2.ReadRequest(device_id=self.device_id, entities=entities)
        self.check_reachable()
        try:
            for response in self._stub.Read(request, timeout=self._timeout, metadata=self._shown):
                yield from response.entities
        except grpc.RpcError as error:
            raise self._explain(error, self._timeout) from error

    def entries(self, table: str) -> list[TableEntry]:
        """All entries but the default one."""
        wanted = p4runtime_pb2.Entity()
        wanted.table_entry.table_id = self.schema.tables.named(table).id
        return [
            parse_entry(self.schema, entity.table_entry)[1]
            for entity in self.read(wanted)
            if not entity.table_entry.is_default_action
        ]

    def counters(self, wanted: Iterable[tuple[str, int | None]]) -> dict[tuple[str, int], CounterValue]:
        """By counter and index; an index of None asks for all."""
        counters = self.schema.counters
        return {
            (counters.get(found.counter_id).name, found.index.index): CounterValue(
                found.data.packet_count, found.data.byte_count
            )
            for found in self._cells("counter", counters, wanted)
        }

    def direct_counters(self, table: str) -> list[tuple[dict[str, Match], int]]:
        """The keys of a table's entries, and the packets that hit each."""
        wanted = p4runtime_pb2.Entity()
        info = self.schema.tables.named(table)
        wanted.direct_counter_entry.table_entry.table_id = info.id
        return [
            (parse_key(info.fields, found.table_entry.match, f"table {table}"), found.data.packet_count)
            for found in (entity.direct_counter_entry for entity in self.read(wanted))
        ]

    def registers(self, wanted: Iterable[tuple[str, int | None]]) -> dict[tuple[str, int], int]:
        """Values by register and index, None asks for all. Raises P4RuntimeError UNIMPLEMENTED without access (BMv2)."""
        values = {}
        for found in self._cells("register", self.schema.registers, wanted):
            register = self.schema.registers.get(found.register_id)
            (value,) = register.type.decode(found.data, f"register {register.name}")
            values[register.name, found.index.index] = value
        return values

    def _cells(
        self, kind: str, arrays: Objects[Any], wanted: Iterable[tuple[str, int | None]]
    ) -> Iterator[Any]:
        """The CounterEntries or RegisterEntries of arrays by name and index."""
        entities = []
        for name, index in wanted:
            entity = p4runtime_pb2.Entity()
            entry = getattr(entity, f"{kind}_entry")
            setattr(entry, f"{kind}_id", arrays.named(name).id)
            if index is not None:
                entry.index.index = index
            entities.append(entity)
        for found in self.read(*entities) if entities else ():
            yield getattr(found, f"{kind}_entry")

    def multicast_groups(self) -> list[int]:
        """Numbers of the multicast groups there are."""
        wanted = p4runtime_pb2.Entity()
        wanted.packet_replication_engine_entry.multicast_group_entry.multicast_group_id = 0
        return [
            found.packet_replication_engine_entry.multicast_group_entry.multicast_group_id
            for found in self.read(wanted)
        ]

    # Digests.

    def subscribe(self, names: Sequence[str], receive: OnDigest) -> None:
        """`receive` gets every message of these digests, in a thread that also may call this client; it should not take long."""
        self._receive = receive
        for name in names:
            entity = p4runtime_pb2.Entity()
            entity.digest_entry.digest_id = self.schema.digests.named(name).id
            entity.digest_entry.config.max_list_size = 1
            entity.digest_entry.config.ack_timeout_ns = 1_000_000_000
            try:
                self.write([(Change.INSERT, entity)])
            except P4RuntimeError as error:
                if not error.all_have_code("ALREADY_EXISTS"):
                    raise
                self.write([(Change.MODIFY, entity)])

    # Inside.

    def _await_channel(self) -> None:
        try:
            grpc.channel_ready_future(self._channel).result(self._timeout)
        except grpc.FutureTimeoutError:
            private = self.address.startswith(PRIVATE)
            why = None if private else why_unreachable(self.address, self._tls, self._timeout)
            if isinstance(why, TlsError):
                raise why from None
            raise self._unreachable(f"no connection within {self._timeout:g} s") from None

    def _become_primary(self) -> None:
        answer = self._arbitrate()
        if answer.status.code == code_pb2.NOT_FOUND:
            # Nobody has the switch, but somebody with a higher election id had.
            self._election = answer.election_id
            answer = self._arbitrate()
        self._claiming = False
        if answer.status.code != code_pb2.OK:
            highest = answer.election_id.high << 64 | answer.election_id.low
            raise NotPrimaryError(
                f"another controller has the switch at {self.address} (election id {highest}): stop it, or take a higher "
                "--election-id",
                code_pb2.Code.Name(answer.status.code),
            )

    def _arbitrate(self) -> Any:
        """The switch's answer to this client's election id."""
        request = p4runtime_pb2.StreamMessageRequest()
        request.arbitration.device_id = self.device_id
        request.arbitration.election_id.CopyFrom(self._election)
        self._claiming = True
        self._outgoing.put(request)
        try:
            answer = self._arbitrated.get(timeout=self._timeout)
        except queue.Empty:
            raise self._unreachable(f"no answer to the arbitration within {self._timeout:g} s") from None
        if isinstance(answer, SwitchMLError):
            raise answer
        return answer

    def _listen(self) -> None:
        try:
            for response in self._stream:
                match response.WhichOneof("update"):
                    case "arbitration":
                        self._on_arbitration(response.arbitration)
                    case "digest":
                        self._on_digest(response.digest)
                    case "error":
                        _log.warning("the switch at %s reports: %s", self.address, response.error.message)
            self._lose("it has ended the stream")
        except grpc.RpcError as error:
            if not self._closed:
                self._lose(_sentence(error), self._not_let_in(error) or self._not_elected(error))
        except ValueError:  # gRPC's word for a closed channel
            self._lose("this client is closed")

    def _lose(self, why: str, error: SwitchMLError | None = None) -> None:
        self._lost = self._lost or why
        self._arbitrated.put(error or self._unreachable(why))

    def _not_let_in(self, error: grpc.RpcError) -> InvalidTokenError | None:
        if not isinstance(error, grpc.Call) or error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            return None
        return InvalidTokenError(f"the switch at {self.address} refused: {error.details()}")

    def _not_elected(self, error: grpc.RpcError) -> NotPrimaryError | None:
        """A stream that asks for another's election id is ended (P4Runtime specification, section 5.3)."""
        if not isinstance(error, grpc.Call) or error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            return None
        return NotPrimaryError(
            f"another controller may have the switch at {self.address} (it says: {error.details()}): stop that one, or take a "
            "higher --election-id",
            error.code().name,
        )

    def _on_arbitration(self, update: Any) -> None:
        if update.status.code != code_pb2.OK:
            # Until `reclaim`: whoever had the switch meanwhile has changed its tables.
            self._displaced = "another controller has become primary"
            self._vacant = update.status.code == code_pb2.NOT_FOUND
        elif self._claiming:
            # Here, in the order of the switch's messages: the next may take it away again.
            self._claiming = False
            self._displaced = ""
        elif self._displaced:
            # BMv2 makes a backup primary unasked; the tables are another's all the same.
            self._vacant = True
        self._arbitrated.put(update)

    def _on_digest(self, digest: Any) -> None:
        acknowledgement = p4runtime_pb2.StreamMessageRequest()
        acknowledgement.digest_ack.digest_id = digest.digest_id
        acknowledgement.digest_ack.list_id = digest.list_id
        receive = self._receive
        try:
            for message in parse_digests(self.schema, digest) if receive else ():
                assert receive is not None
                receive(*message)
        except SwitchMLError as error:
            _log.warning("digest %d of the switch at %s: %s", digest.digest_id, self.address, error)
        except Exception:
            _log.exception("digest %d of the switch at %s", digest.digest_id, self.address)
        # Afterwards: what repeats until then is not sent again.
        self._outgoing.put(acknowledgement)

    def check_reachable(self) -> None:
        """Raises SwitchUnreachableError once the switch can't be reached any more."""
        if self._lost:
            raise self._unreachable(self._lost)

    def check(self) -> None:
        """Raises SwitchUnreachableError or NotPrimaryError once this client can't program the switch any more."""
        self.check_reachable()
        if self._displaced:
            raise NotPrimaryError(
                f"another controller has taken over the switch at {self.address}; stop it",
                "PERMISSION_DENIED",
            )

    def _call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        self.check_reachable()
        seconds = timeout or self._timeout
        try:
            return method(request, timeout=seconds, metadata=self._shown)
        except ValueError as error:  # the channel was closed meanwhile
            raise self._unreachable("this client is closed") from error
        except grpc.RpcError as error:
            raise self._explain(error, seconds) from error

    def _unreachable(self, why: str) -> SwitchUnreachableError:
        return SwitchUnreachableError(
            f"no P4Runtime switch can be reached at {self.address}: {why}; start it (`simple_switch_grpc`, or `switchml switch "
            "--p4runtime-port PORT`), then this controller again"
        )

    def _explain(self, error: grpc.RpcError, seconds: float) -> SwitchMLError:
        code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return self._unreachable(_sentence(error))
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return SwitchUnreachableError(
                f"the P4Runtime switch at {self.address} did not answer within {seconds:g} s: is it overloaded?"
            )
        details = _details(error)
        said = "; ".join(details) or _sentence(error)
        advice = {
            grpc.StatusCode.PERMISSION_DENIED: "; another controller may be primary: stop it, or take a higher --election-id",
            grpc.StatusCode.NOT_FOUND: "; is --device-id right, and the program the one this controller is for?",
            grpc.StatusCode.RESOURCE_EXHAUSTED: "; wait for jobs to end",
        }.get(code, "")
        kind = NotPrimaryError if code is grpc.StatusCode.PERMISSION_DENIED else P4RuntimeError
        return kind(f"the switch at {self.address} refused: {said}{advice}", code.name, details)


def _register(number: int, index: int, value: int) -> Any:
    entity = p4runtime_pb2.Entity()
    entity.register_entry.register_id = number
    entity.register_entry.index.index = index
    entity.register_entry.data.bitstring = encode(value)
    return entity


def multicast_group(group: int, replicas: Mapping[int, int]) -> Any:
    """The p4.v1.Entity of a multicast group; `replicas`: egress port by replication id."""
    entity = p4runtime_pb2.Entity()
    entry = entity.packet_replication_engine_entry.multicast_group_entry
    entry.multicast_group_id = group
    for instance, port in replicas.items():
        # The old field: BMv2 knows the new one (`port`) only in its latest versions.
        entry.replicas.add(egress_port=port, instance=instance)
    return entity


def _sentence(error: grpc.RpcError) -> str:
    if not isinstance(error, grpc.Call):
        return str(error)
    return f"{error.code().name} {error.details() or ''}".strip()


def _details(error: grpc.RpcError) -> tuple[str, ...]:
    """One line for each update that failed (P4Runtime specification, section 12.1)."""
    trailing: Any = (error.trailing_metadata() or ()) if isinstance(error, grpc.Call) else ()
    packed = {str(key): value for key, value in trailing}.get(_STATUS_KEY)
    if not isinstance(packed, bytes):
        return ()
    lines = []
    for index, each in enumerate(status_pb2.Status.FromString(packed).details):
        failure = p4runtime_pb2.Error()
        if each.Unpack(failure) and failure.canonical_code != code_pb2.OK:
            name = code_pb2.Code.Name(failure.canonical_code)
            lines.append(f"{name}: update {index}: {failure.message or 'no reason given'}")
    return tuple(lines)


_open_clients: weakref.WeakSet[P4RuntimeClient] = weakref.WeakSet()


def _close_all() -> None:
    """A thread inside gRPC must have ended when the interpreter goes away."""
    for client in list(_open_clients):
        with contextlib.suppress(Exception):
            client.close()


close_at_exit(Stage.CLIENTS, _close_all)
