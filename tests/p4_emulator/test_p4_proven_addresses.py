"""The P4 program sends a worker nothing but a challenge before packets from there have carried the secret and the challenge."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from switchml.control.client import ControlClient
from switchml.control.control_messages import JoinOffer
from switchml.errors import UsageError
from switchml.protocol.header import Header, build_header
from switchml.protocol.messages import SUM
from switchml.protocol.probes import answer_to_challenge, new_secret, probe_header, ticket_of_secret
from switchml.switch_emulator.p4_emulator import P4UdpEmulator, read_program

pytest.importorskip(
    "google.rpc.status_pb2", reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'"
)

PROGRAM = Path(__file__).parents[2] / "p4" / "build" / "switchml_64.json"
PAYLOAD = 256
SIZE = 1


@pytest.fixture
def switch() -> Iterator[P4UdpEmulator]:
    with P4UdpEmulator(read_program(PROGRAM)) as running:
        yield running


@pytest.fixture
def host(switch: P4UdpEmulator) -> Iterator[socket.socket]:
    address, _, port = switch.udp_address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect((address, int(port)))
        yield made


def dropped(switch: P4UdpEmulator, host: socket.socket, packet: bytes) -> bool:
    """Sends a packet; whether nothing but a counter comes of it."""
    before = switch.counters()
    host.send(packet)
    deadline = time.monotonic() + 30
    while switch.counters()["packets_received"] == before["packets_received"]:
        assert time.monotonic() < deadline, "the packet did not come through"
        time.sleep(0.01)
    after = switch.counters()
    same = ("packets_sent", "probes_answered")
    return [after[name] for name in same] == [before[name] for name in same]


def answered(host: socket.socket, packet: bytes) -> bytes:
    """What comes back to a packet that is sent until something does."""
    host.settimeout(0.5)
    for _ in range(60):
        host.send(packet)
        try:
            return host.recv(65536)
        except TimeoutError:
            continue
    raise AssertionError("nothing came back")


def test_an_address_counts_once_it_is_proven(switch: P4UdpEmulator, host: socket.socket) -> None:
    secret = new_secret()
    address, port = host.getsockname()
    with ControlClient(switch.control_address) as client:
        with pytest.raises(UsageError, match="needs a ticket"):
            client.join(JoinOffer("one", 0, 1, address=address, port=port), timeout=30)
        offer = JoinOffer("one", 0, 1, address=address, port=port, ticket=ticket_of_secret(secret), window=16)
        number = client.join(offer, timeout=30).job_number
        client.ready(multicast=False, timeout=30)
        data = build_header(Header(SUM, size=SIZE, job_number=number)) + bytes(PAYLOAD)
        probe = build_header(probe_header(number, secret))
        for packet in (data, build_header(probe_header(number, new_secret())), probe + bytes(4)):
            assert dropped(switch, host, packet)
        reply = answer_to_challenge(answered(host, probe))
        assert reply is not None
        assert dropped(switch, host, data), "a challenge is not enough"
        assert answered(host, reply) == reply
        assert len(answered(host, data)) == len(data)
        # What was proven stays so, as long as the job.
        assert answered(host, probe) in (probe, data)
