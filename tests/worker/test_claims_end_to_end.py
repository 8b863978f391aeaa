"""Joins that name another's address, through the control service: nothing is sent there, and its owner is not kept out."""

from __future__ import annotations

import socket
import time
from contextlib import closing

import numpy as np
import pytest

from switchml.control.client import ControlClient
from switchml.control.control_messages import JoinOffer
from switchml.control.target import TargetDescription
from switchml.protocol.header import Header, build_header
from switchml.protocol.messages import SUM
from switchml.protocol.probes import new_secret, ticket_of_secret
from switchml.switch_emulator.emulator import Emulator
from switchml.worker import Worker
from switchml.worker import seat as seat_module
from switchml.worker.connection import Connection, UdpConnection


def claim(client: ControlClient, job: str, address: str, port: int) -> None:
    """Join a job of one worker, in somebody's name, and start it."""
    offer = JoinOffer(
        job, 0, 1, address=address, port=port, ticket=ticket_of_secret(new_secret()), payload=128
    )
    client.join(offer, timeout=30)
    client.ready(multicast=False, timeout=30)


def test_nothing_is_sent_to_an_address_that_somebody_else_has_named(emulator: Emulator) -> None:
    with (
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as victim,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as attacker,
        ControlClient(emulator.control_address) as client,
    ):
        for each in (victim, attacker):
            each.bind(("127.0.0.1", 0))
        claim(client, "theirs", *victim.getsockname())
        target = client.discover()
        status = client.status()
        [number] = [job.job_number for job in status.jobs if job.name == "theirs"]
        packet, before = build_header(Header(SUM, job_number=number)) + bytes(128), status.counters
        # As forged ones would come: the job is of one worker, so a packet taken from it is answered at once.
        for each in (attacker, victim):
            each.sendto(packet, (target.host, target.udp_port))
        while client.status().counters["dropped_unknown_sender"] < before["dropped_unknown_sender"] + 2:
            time.sleep(0.01)
        assert client.status().counters["packets_sent"] == before["packets_sent"]
        victim.setblocking(False)
        with pytest.raises(BlockingIOError):
            victim.recv(65536)


def test_who_is_at_an_address_joins_whoever_has_named_it(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ControlClient(emulator.control_address) as attacker:

        def connect(target: TargetDescription, transport: str, multicast: bool) -> Connection:
            """As the worker does; the claim comes before its join."""
            connection = UdpConnection(target, multicast=multicast)
            claim(attacker, "theirs", connection.address, connection.port_number)
            return connection

        monkeypatch.setattr(seat_module, "_connect", connect)
        with Worker.join(
            emulator.control_address, job="ours", rank=0, world_size=1, transport="udp"
        ) as worker:
            assert (worker.allreduce(np.ones(1000, np.float32)).wait() == 1).all()
        assert [job.name for job in attacker.status().jobs] == ["theirs"]
