"""What a rank says of its pace with its heartbeats, as the switch then knows it."""

from __future__ import annotations

from typing import Any

import numpy as np

from switchml.control.control_messages import MemberStatus
from switchml.switch_emulator import Emulator


def members(emulator: Emulator, world: Any) -> list[MemberStatus]:
    """As the switch shows them after a sum and a heartbeat of each."""
    world.run(lambda worker: worker.allreduce(np.ones(100_000, np.float32)).wait())
    world.run(lambda worker: worker._seats[0]._client._beat(30.0))
    name = world.workers[0]._seats[0]._way.offer.job
    (job,) = [each for each in emulator.controller.status().jobs if each.name == name]
    return list(job.members)


def test_by_packets_a_rank_has_a_round_trip_and_a_window(emulator: Emulator, worlds: Any) -> None:
    world = worlds(2, transport="udp", window=64)
    for member in members(emulator, world):
        assert 0 < member.round_trip < 30
        assert 1 <= member.in_flight <= 64


def test_in_memory_it_has_its_slots_alone(emulator: Emulator, worlds: Any) -> None:
    world = worlds(2, transport="memory", window=32)
    assert {(member.round_trip, member.in_flight) for member in members(emulator, world)} == {(0.0, 32)}
