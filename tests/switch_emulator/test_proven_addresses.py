"""A UDP worker's address counts once packets from there have carried its join's secret and the switch's challenge."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from switchml.control.target import JobProgram, WorkerProgram
from switchml.protocol.header import HEADER_BYTES, Header, build_header
from switchml.protocol.messages import SUM
from switchml.protocol.probes import answer_to_challenge, new_secret, probe_header, ticket_of_secret
from switchml.switch_emulator.native_target import EmulatorTarget
from switchml.worker.connection import UdpConnection

WINDOW, PAYLOAD = 4, 128
PROBED = {"probes_answered": 1, "packets_sent": 1, "bytes_sent": HEADER_BYTES}
STRANGE = {"dropped_unknown_sender": 1}


class Host(socket.socket):
    """A socket on loopback that talks to a switch."""

    def __init__(self, switch: EmulatorTarget) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.connect(("127.0.0.1", switch.describe().udp_port))
        self.settimeout(10)
        self.switch = switch

    def tell(self, packet: bytes) -> dict[str, int]:
        """Send a packet; the counters it moved, but for those of what came."""
        before = self.switch.counters()
        self.send(packet)
        deadline = time.monotonic() + 30
        while self.switch.counters()["packets_received"] == before["packets_received"]:
            assert time.monotonic() < deadline, "the packet did not come through"
            time.sleep(0.001)
        after = self.switch.between_packets(self.switch.counters)
        received = ("packets_received", "bytes_received")
        return {
            name: after[name] - before[name]
            for name in after
            if name not in received and after[name] != before[name]
        }

    def silent(self) -> bool:
        """Nothing has come."""
        self.setblocking(False)
        try:
            self.recv(65536)
        except BlockingIOError:
            return True
        finally:
            self.settimeout(10)
        return False

    def prove(self, job: int, secret: int) -> None:
        """As a worker does."""
        assert self.tell(probe(job, secret)) == PROBED
        answer = answer_to_challenge(self.recv(65536))
        assert answer is not None
        assert self.tell(answer) == PROBED
        assert self.recv(65536) == answer


def probe(job: int, secret: int) -> bytes:
    return build_header(probe_header(job, secret))


def data(job: int) -> bytes:
    return build_header(Header(SUM, job_number=job)) + bytes(PAYLOAD)


def program(number: int, *claims: tuple[Host, int]) -> JobProgram:
    workers = tuple(
        WorkerProgram(rank, "udp", *host.getsockname(), ticket_of_secret(secret))
        for rank, (host, secret) in enumerate(claims)
    )
    return JobProgram(number, WINDOW * number, WINDOW, PAYLOAD, False, workers, "", 0)


@pytest.fixture
def switch() -> Iterator[EmulatorTarget]:
    made = EmulatorTarget()
    yield made
    made.close()


@pytest.fixture
def hosts(switch: EmulatorTarget) -> Iterator[list[Host]]:
    made = [Host(switch) for _ in range(3)]
    yield made
    for host in made:
        host.close()


def test_a_worker_proves_its_address_and_sums(switch: EmulatorTarget, hosts: list[Host]) -> None:
    host, secret = hosts[0], new_secret()
    switch.add_job(program(1, (host, secret)))
    assert host.tell(data(1)) == STRANGE
    assert switch.last_heard(1) == [None]
    host.prove(1, secret)
    assert host.tell(data(1))["chunks_completed"] == 1
    assert len(host.recv(65536)) == HEADER_BYTES + PAYLOAD
    # What was proven stays so while others come and go.
    switch.add_job(program(2, (hosts[1], new_secret())))
    switch.remove_job(2)
    assert host.tell(probe(1, secret)) == PROBED
    switch.remove_job(1)
    assert host.tell(probe(1, secret)) == STRANGE


def test_a_join_in_a_third_partys_name_never_has_packets_sent_there(
    switch: EmulatorTarget, hosts: list[Host]
) -> None:
    attacker, victim, _ = hosts
    mine, theirs = new_secret(), new_secret()
    switch.add_job(program(1, (attacker, mine), (victim, theirs)))
    attacker.prove(1, mine)
    for packet in (probe(1, mine), probe(1, theirs), data(1), data(1)):
        attacker.tell(packet)
    # Forged in the victim's name, by one who does not know, or does not see, what the switch wants.
    for packet in (
        data(1),
        probe(1, mine),
        probe(1, new_secret()),
        probe(1, theirs)[:-1],
        probe(1, theirs) + b"x",
    ):
        assert victim.tell(packet) == STRANGE
    assert victim.silent()
    # Who made the claim and forges packets as well brings the victim one challenge a packet, as long as that.
    assert victim.tell(probe(1, theirs)) == PROBED
    assert len(victim.recv(65536)) == HEADER_BYTES
    assert victim.tell(data(1)) == STRANGE
    assert attacker.tell(data(1)) == {"dropped_duplicate": 1}
    assert victim.silent()


def test_a_challenge_counts_from_its_address_alone(switch: EmulatorTarget, hosts: list[Host]) -> None:
    host, other, _ = hosts
    secret = new_secret()
    switch.add_job(program(1, (host, secret)))
    host.tell(probe(1, secret))
    answer = answer_to_challenge(host.recv(65536))
    assert answer is not None
    assert other.tell(answer) == STRANGE
    assert other.tell(probe(1, secret)) == STRANGE
    # The challenge again, had its first copy been lost; it is the same, and does not count as its own answer.
    assert host.tell(probe(1, secret)) == PROBED
    again = host.recv(65536)
    assert answer_to_challenge(again) == answer
    assert again != answer
    assert host.tell(answer) == PROBED


def test_of_several_claims_the_one_that_is_proven_counts(switch: EmulatorTarget, hosts: list[Host]) -> None:
    owner, squatter = hosts[0], new_secret()
    secret = new_secret()
    for number in (1, 2, 3):
        switch.add_job(program(number, (owner, squatter + number)))
    switch.add_job(program(4, (owner, secret)))
    owner.prove(4, secret)
    assert owner.tell(data(4))["chunks_completed"] == 1
    assert owner.tell(data(1)) == {"dropped_wrong_job": 1}
    switch.remove_job(1)
    assert owner.tell(data(4))["results_retransmitted"] == 1


class Lossy(socket.socket):
    """Loses the first datagrams of each way."""

    lost = 0

    def send(self, packet: bytes, *flags: int) -> int:  # type: ignore[override]
        """As a socket."""
        self.sent = getattr(self, "sent", 0) + 1
        if self.sent in (1, 2, 4):
            self.lost += 1
            return len(packet)
        return super().send(packet, *flags)

    def recv(self, *arguments: int) -> bytes:
        """As a socket."""
        packet = super().recv(*arguments)
        self.got = getattr(self, "got", 0) + 1
        if self.got in (1, 3):
            self.lost += 1
            raise BlockingIOError
        return packet


def test_lost_probes_and_challenges_are_sent_again(switch: EmulatorTarget) -> None:
    connection = UdpConnection(switch.describe())
    lossy = Lossy(fileno=connection._socket.detach())
    connection._socket = lossy
    try:
        worker = WorkerProgram(0, "udp", connection.address, connection.port_number, connection.ticket)
        switch.add_job(JobProgram(1, 0, WINDOW, PAYLOAD, False, (worker,), "", 0))
        connection.attach(0, 1, WINDOW, PAYLOAD, 1, "", 0)
        # Its probe twice, the challenge, the answer, the answer's echo.
        assert lossy.lost == 5
        assert switch.last_heard(1) != [None]
    finally:
        connection.close()
