"""P4Runtime messages of any bytes to a switch with the SwitchML program: carried out or refused, never a traceback."""

from __future__ import annotations

import asyncio
import random
import resource
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from fuzz_budget import guided, inputs
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from in_process_calls import CallContext, InProcess, Refusal, Waiting, no_errors_logged
from message_mutations import encoded

from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.p4runtime.schema import Schema
from switchml.p4runtime.stubs import p4info_pb2, p4runtime_pb2_grpc
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4.device import P4Device
from switchml.switch_emulator.p4runtime.service import P4RuntimeService

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "p4/build/switchml_64.json"
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PROGRAM.exists(), reason="the compiled program is not there: make -C p4"),
]

_SERVICE = "/p4.v1.P4Runtime/"
_DEVICE = 3
# The highest there is: no other client becomes primary of the default role.
_ELECTION = pb.Uint128(high=2**64 - 1, low=2**64 - 1)
_MOST_KILOBYTES = 512 << 10


def _value(bits: int, number: int) -> bytes:
    return (number & ((1 << bits) - 1)).to_bytes((bits + 7) // 8, "big")


def _entry(info: Any, table: Any, number: int) -> Any:
    """An entry of a table, with its first action."""
    entry = pb.TableEntry(table_id=table.preamble.id)
    for field in table.match_fields:
        match = entry.match.add(field_id=field.id)
        value = _value(field.bitwidth, number)
        match field.match_type:
            case p4info_pb2.MatchField.LPM:
                match.lpm.value, match.lpm.prefix_len = value, field.bitwidth
            case p4info_pb2.MatchField.TERNARY:
                match.ternary.value, match.ternary.mask = value, _value(field.bitwidth, -1)
                entry.priority = 1
            case _:
                match.exact.value = value
    action = next(each for each in info.actions if each.preamble.id == table.action_refs[0].id)
    entry.action.action.action_id = action.preamble.id
    for parameter in action.params:
        entry.action.action.params.add(param_id=parameter.id, value=_value(parameter.bitwidth, number))
    return entry


def _entities(info: Any) -> list[Any]:
    """A sound one of every kind that the program has."""
    found = [pb.Entity(table_entry=_entry(info, table, number)) for table in info.tables for number in (1, 2)]
    found += [pb.Entity(table_entry=pb.TableEntry(table_id=table.preamble.id)) for table in info.tables]
    for counter in info.counters[:4]:
        found.append(
            pb.Entity(counter_entry=pb.CounterEntry(counter_id=counter.preamble.id, index=pb.Index(index=1)))
        )
    for direct in info.direct_counters:
        entry = _entry(info, next(t for t in info.tables if t.preamble.id == direct.direct_table_id), 1)
        found.append(pb.Entity(direct_counter_entry=pb.DirectCounterEntry(table_entry=entry)))
    for register in info.registers[:4]:
        cell = pb.RegisterEntry(register_id=register.preamble.id, index=pb.Index(index=1))
        cell.data.bitstring = b"\x01"
        found.append(pb.Entity(register_entry=cell))
    for digest in info.digests:
        each = pb.DigestEntry(digest_id=digest.preamble.id)
        each.config.max_list_size = 3
        found.append(pb.Entity(digest_entry=each))
    group, session = pb.Entity(), pb.Entity()
    engine = group.packet_replication_engine_entry
    engine.multicast_group_entry.multicast_group_id = 4
    engine.multicast_group_entry.replicas.add(port=b"\x01", instance=1)
    session.packet_replication_engine_entry.clone_session_entry.session_id = 5
    session.packet_replication_engine_entry.clone_session_entry.replicas.add(egress_port=2, instance=1)
    return [*found, group, session, pb.Entity(meter_entry=pb.MeterEntry(meter_id=1))]


class _Requests:
    """Sound requests."""

    def __init__(self, info: Any, program: bytes) -> None:
        self._info, self._program = info, program
        self._entities = _entities(info)

    def draw(self, rng: random.Random) -> tuple[str, Any]:
        """A method, and a request of it."""
        chosen = rng.choices(self._entities, k=rng.choice((1, 1, 2, 4)))
        match rng.randrange(30):
            case 0 | 1 | 2 | 3 | 4:
                return "Read", pb.ReadRequest(device_id=_DEVICE, entities=chosen)
            case 5:
                kind = rng.randrange(4)
                # Each answer holds the whole program where that is asked for.
                whole = kind in (0, 3) and rng.random() > 0.002
                return "GetForwardingPipelineConfig", pb.GetForwardingPipelineConfigRequest(
                    device_id=_DEVICE, response_type=2 if whole else kind
                )
            case 6:
                return "Capabilities", pb.CapabilitiesRequest(device_id=_DEVICE)
            case 7:
                request = pb.SetForwardingPipelineConfigRequest(
                    device_id=_DEVICE, election_id=_ELECTION, action=rng.randrange(1, 6)
                )
                if rng.random() < 0.9:
                    request.config.p4info.SetInParent()
                    request.config.p4_device_config = rng.choice(
                        (b"", b"{}", b"[]", b'{"tables": 3}', b"\xff")
                    )
                if rng.random() < 0.001:
                    request.config.p4info.CopyFrom(self._info)
                    request.config.p4_device_config = self._program
                return "SetForwardingPipelineConfig", request
            case _:
                kinds = (pb.Update.INSERT, pb.Update.INSERT, pb.Update.MODIFY, pb.Update.DELETE)
                updates = [pb.Update(type=rng.choice(kinds), entity=each) for each in chosen]
                return "Write", pb.WriteRequest(device_id=_DEVICE, election_id=_ELECTION, updates=updates)

    def stream(self, rng: random.Random) -> Any:
        """A message of a stream."""
        message = pb.StreamMessageRequest()
        match rng.randrange(4):
            case 0 | 1:
                message.arbitration.device_id = _DEVICE
                message.arbitration.election_id.low = rng.randrange(5)
                message.arbitration.role.name = rng.choice(("", "other"))
            case 2:
                message.packet.payload = rng.randbytes(rng.choice((0, 14, 60)))
            case _:
                message.digest_ack.digest_id = rng.choice(self._info.digests).preamble.id
        return message


class _OpenContext(CallContext):
    """A client that arbitrates and stays."""

    async def read(self) -> Any:
        if not self._incoming:
            await asyncio.Event().wait()
        return await super().read()


def _decodes(kind: Any, data: bytes) -> bool:
    try:
        kind.FromString(data)
    except DecodeError:
        return False
    return True


def _is_long(method: str, data: bytes) -> bool:
    """Whether a request asks for whole registers: thousands of cells, which take as long as a thousand other requests."""
    if method != "Read" or not _decodes(pb.ReadRequest, data):
        return False
    cells = [
        each.register_entry
        for each in pb.ReadRequest.FromString(data).entities
        if each.HasField("register_entry")
    ]
    return any(cell.register_id == 0 or not cell.HasField("index") for cell in cells)


async def _try(services: InProcess, method: str, sound: Any, data: bytes, told: dict[str, int]) -> None:
    refusal = None
    try:
        await services.call(_SERVICE + method, data, CallContext())
    except Refusal as error:
        refusal = error
    sense = _decodes(type(sound), data)
    told["undecodable"] += not sense
    told["answered" if refusal is None else "refused"] += 1
    if refusal is None:
        assert sense, (method, data)
        return
    assert refusal.details, (method, data)
    assert refusal.code is not grpc.StatusCode.INTERNAL, (refusal, method, data)
    assert sense or refusal.code is grpc.StatusCode.INVALID_ARGUMENT, (refusal, method, data)


async def _try_stream(services: InProcess, messages: list[bytes], told: dict[str, int]) -> None:
    refusal = None
    try:
        await services.stream(_SERVICE + "StreamChannel", messages, "")
    except Refusal as error:
        refusal = error
    if refusal is not None:
        told["streams ended"] += 1
        assert refusal.details, messages
        assert refusal.code is not grpc.StatusCode.INTERNAL, (refusal, messages)


async def _try_all(device: P4Device, requests: _Requests) -> dict[str, int]:
    services, service = InProcess(), P4RuntimeService(device)
    p4runtime_pb2_grpc.add_P4RuntimeServicer_to_server(cast(Any, service), cast(Any, services))
    told = dict.fromkeys(("answered", "refused", "undecodable", "streams ended"), 0)
    waiting = Waiting(20)
    hello = pb.StreamMessageRequest()
    hello.arbitration.device_id = _DEVICE
    hello.arbitration.election_id.CopyFrom(_ELECTION)
    context: Any = _OpenContext(
        incoming=[hello.SerializeToString()], decode=pb.StreamMessageRequest.FromString
    )
    primary = asyncio.ensure_future(service.StreamChannel(None, context))
    while not context.sent:
        await asyncio.sleep(0)
    with no_errors_logged() as check:
        for rng in inputs(1500, 0.12):
            if rng.random() < 0.1:
                messages = [encoded([requests.stream(rng)], rng) for _ in range(rng.choice((1, 2, 4)))]
                await waiting.run(_try_stream(services, messages, told))
            else:
                method, sound = requests.draw(rng)
                data = encoded([sound], rng)
                if not _is_long(method, data) or rng.random() < 0.003:
                    await waiting.run(_try(services, method, sound, data, told))
            context.sent.clear()
            check()
        await waiting.close()
    assert not primary.done()
    primary.cancel()
    await asyncio.gather(primary, return_exceptions=True)
    service.close()
    return told


@guided()
def test_descriptions_of_any_bytes() -> None:
    """What SetForwardingPipelineConfig parses before it looks at the program."""
    paths = (PROGRAM.with_suffix(".p4info.txtpb"), ROOT / "tests/p4runtime_server/everything.p4info.txtpb")
    infos = [text_format.Parse(path.read_text(), p4info_pb2.P4Info()) for path in paths]
    taken = refused = 0
    for rng in inputs(500, 0.03):
        data = encoded(infos, rng)
        try:
            Schema.parse(data)
            taken += 1
        except RuntimeRequestError as refusal:
            assert str(refusal)  # noqa: PT017 - many are refused
            refused += 1
    assert taken > 0
    assert refused > 0


@guided()
def test_messages_of_any_bytes() -> None:
    info = text_format.Parse(PROGRAM.with_suffix(".p4info.txtpb").read_text(), p4info_pb2.P4Info())
    program = PROGRAM.read_bytes()
    device = P4Device(_DEVICE)
    device.commit(info.SerializeToString(), program)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = asyncio.run(_try_all(device, _Requests(info, program)))
    assert min(told.values()) > 0, told
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < _MOST_KILOBYTES
