"""Requests of any bytes to the control service and the reference services: answered or refused, never a traceback."""

from __future__ import annotations

import asyncio
import random
import resource
from dataclasses import replace
from typing import Any, cast

import grpc
import pytest
from fuzz_budget import guided, inputs
from google.protobuf.message import DecodeError
from in_process_calls import BROKEN, CallContext, InProcess, Refusal, Waiting, no_errors_logged
from message_mutations import encoded

from switchml.control import reference_pb2, switch_pb2
from switchml.control.controller import Controller
from switchml.control.reference import ReferenceService
from switchml.control.reference_pb2_grpc import add_SessionServicer_to_server, add_SyncServicer_to_server
from switchml.control.server import Leaf, _Service
from switchml.control.switch_pb2_grpc import add_SwitchServicer_to_server
from switchml.control.target import TargetDescription
from switchml.protocol.messages import UDP_PORT_FIRST
from switchml.protocol.probes import ticket_of_secret
from switchml.switch_emulator.native_target import EmulatorTarget

pytestmark = pytest.mark.timeout(600)

_OURS, _SESSION, _SYNC = "/switchml.control.v1.Switch/", "/switchml_proto.Session/", "/switchml_proto.Sync/"
_PEERS = (
    "ipv4:127.0.0.1:1",
    "ipv4:10.0.0.1:2",
    "ipv4:10.0.0.2:3",
    "ipv6:[::1]:4",
    "ipv6:[fe80::1%25eth0]:5",
    "unix:",
    "",
)
_LEASE = 30.0
_MOST_KILOBYTES = 512 << 10


class _ReferencePort(EmulatorTarget):
    """Says that it takes packets where reference clients send them."""

    def describe(self) -> TargetDescription:
        return replace(super().describe(), udp_port=UDP_PORT_FIRST)


class _Requests:
    """Sound requests, with names that others have used."""

    def __init__(self) -> None:
        self.sessions = [""]
        self.made = 0

    def draw(self, rng: random.Random) -> tuple[str, Any]:
        """A method, and a request of it."""
        session = rng.choice(self.sessions[-20:])
        match rng.randrange(14):
            case 0 | 1 | 2 | 3 | 4:
                self.made += 1
                name = f"s{self.made}"
                self.sessions = [*self.sessions[-40:], name]
                size = rng.choice((1, 1, 2, 3))
                return _OURS + "Join", switch_pb2.JoinRequest(
                    session=name, job=f"job{rng.randrange(4)}", rank=rng.randrange(size), world_size=size,
                    transport=rng.choice(("udp", "udp", "shm")), address="127.0.0.1", port=rng.randrange(1, 65536),
                    ticket=ticket_of_secret(rng.getrandbits(62) + 1), payload=rng.choice((0, 128, 256)),
                    window=rng.choice((0, 1, 16, 64)), paper=rng.random() < 0.1, timeout=rng.choice((0.5, 5.0, 60.0)),
                )  # fmt: skip
            case 5 | 6:
                return _OURS + "Ready", switch_pb2.ReadyRequest(session=session, multicast=True, timeout=5.0)
            case 7:
                return _OURS + "Heartbeat", switch_pb2.HeartbeatRequest(session=session)
            case 8:
                return _OURS + "Leave", switch_pb2.LeaveRequest(session=session, calls=3, reason="x")
            case 9:
                return _OURS + "Slot", switch_pb2.SlotRequest(session=session, tsi=rng.getrandbits(32))
            case 10:
                name = rng.choice(("Status", "Discover"))
                return _OURS + name, getattr(switch_pb2, f"{name}Request")()
            case 11:
                return _SESSION + "UdpSession", reference_pb2.UdpSessionRequest(
                    session_id=rng.randrange(3), rank=rng.randrange(2), num_workers=rng.choice((1, 2)), mac=5,
                    ipv4=0x7F000000 + rng.randrange(4), packet_size=rng.randrange(4),
                )  # fmt: skip
            case 12:
                workers = rng.choice((1, 2, 3))
                if rng.random() < 0.5:
                    return _SYNC + "Barrier", reference_pb2.BarrierRequest(num_workers=workers)
                return _SYNC + "Broadcast", reference_pb2.BroadcastRequest(
                    value=7, rank=rng.randrange(3), num_workers=workers, root=rng.randrange(2)
                )
            case _:
                return _SESSION + "RdmaSession", reference_pb2.RdmaSessionRequest(session_id=1, num_workers=2)


def _decodes(kind: Any, data: bytes) -> bool:
    try:
        kind.FromString(data)
    except DecodeError:
        return False
    return True


async def _try(
    services: InProcess, method: str, sound: Any, data: bytes, peer: str, told: dict[str, int]
) -> None:
    """One request, which has to be answered or refused as it deserves."""
    refusal = None
    try:
        await services.call(method, data, CallContext(peer))
    except Refusal as error:
        refusal = error
    sense = _decodes(type(sound), data)
    told["undecodable"] += not sense
    if refusal is None:
        assert sense, (method, data)
        told["answered"] += 1
        return
    assert refusal.details, (method, data)
    assert refusal.code not in BROKEN, (refusal, method, data)
    assert sense or refusal.code is grpc.StatusCode.INVALID_ARGUMENT, (refusal, method, data)
    told["refused"] += 1


async def _try_all(controller: Controller, clock: list[float]) -> dict[str, int]:
    services = InProcess()
    service = _Service(controller, Leaf("", controller.describe()))
    reference = ReferenceService(controller, service.changed)
    add_SwitchServicer_to_server(cast(Any, service), cast(Any, services))
    add_SessionServicer_to_server(cast(Any, reference), cast(Any, services))
    add_SyncServicer_to_server(cast(Any, reference), cast(Any, services))
    requests, waiting, told = (
        _Requests(),
        Waiting(100),
        dict.fromkeys(("answered", "refused", "undecodable"), 0),
    )
    with no_errors_logged() as check:
        for rng in inputs(2000, 0.15):
            method, sound = requests.draw(rng)
            data = encoded([sound], rng)
            await waiting.run(_try(services, method, sound, data, rng.choice(_PEERS), told))
            if rng.random() < 0.05:
                clock[0] += rng.choice((0.1, 1.0, _LEASE / 3))
                controller.expire()
                reference.sessions.renew()
            check()
        await waiting.close()
    return told


@guided("switchml.control")
def test_requests_of_any_bytes() -> None:
    clock = [0.0]
    target = _ReferencePort()
    controller = Controller(target, lease=_LEASE, clock=lambda: clock[0])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        told = asyncio.run(_try_all(controller, clock))
        controller.close()
        assert controller.status().jobs == ()
    finally:
        target.close()
    assert min(told.values()) > 0, told
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < _MOST_KILOBYTES
