"""Captures of the native pipeline and of its workers, over UDP and through rings."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from switchml.errors import UsageError
from switchml.packets.account import account_of, lost_between
from switchml.packets.decoding import Packet, read_capture
from switchml.protocol.messages import ABSENT, PROBE, SUM
from switchml.switch_emulator import Emulator
from switchml.switch_emulator.faults import new_faults
from switchml.worker import Worker

RANKS, COUNT, PAYLOAD = 2, 2048, 1024
CHUNKS = COUNT * 4 // PAYLOAD


def train(address: str, transport: str) -> list[str]:
    """An all-reduce of all ranks; the transports they took."""

    def rank(number: int) -> str:
        values = np.random.default_rng(number).standard_normal(COUNT).astype(np.float32)
        options = {"job": "a/b", "rank": number, "world_size": RANKS, "payload": PAYLOAD, "window": 4}
        with Worker.join(address, **options, transport=transport) as worker:
            worker.allreduce(values).wait(60)
            return worker.transport

    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(rank, range(RANKS)))


def data(packets: list[Packet]) -> list[Packet]:
    return [packet for packet in packets if packet.header.msg_type != PROBE]


def sums_are_right(packets: list[Packet]) -> int:
    """How many chunks' results are the sums of what came for them."""
    parts: dict[int, dict[int | None, list[int]]] = defaultdict(dict)
    zeros = [0] * (PAYLOAD // 4)
    right = 0
    for packet in packets:
        if packet.to_switch and packet.header.msg_type in (SUM, ABSENT):
            parts[packet.header.tsi][packet.rank] = packet.values or zeros
        elif packet.header.msg_type != SUM:
            continue
        elif len(came := parts[packet.header.tsi]) == RANKS:
            total = np.sum(list(came.values()), axis=0, dtype=np.int64).astype(np.int32)
            assert total.tolist() == packet.values
            right += 1
    return right


@pytest.mark.parametrize(("transport", "taken"), [("udp", "udp"), ("auto", "shm")])
def test_switch_and_workers_have_the_same_packets(
    transport: str, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = tmp_path / "wire.pcap"
    monkeypatch.setenv("SWITCHML_CAPTURE", str(wire))
    with Emulator(capture=str(wire)) as switch:
        assert train(switch.control_address, transport) == [taken] * RANKS
        counters = switch.counters()
    captures = [
        read_capture(wire),
        *(read_capture(tmp_path / f"wire.a_b.rank{n}.pcap") for n in range(RANKS)),
    ]
    assert [(each.cut, each.others) for each in captures] == [([], 0)] * (1 + RANKS)
    packets = captures[0].packets
    assert sum(packet.to_switch for packet in packets) == counters["packets_received"]
    assert sums_are_right(data(packets)) >= CHUNKS
    for rank, capture in enumerate(captures[1:]):
        assert {packet.rank for packet in capture.packets if not packet.everyone} == {rank}
        assert sum(packet.to_switch for packet in capture.packets) >= CHUNKS
    # A network of this machine alone may still lose what comes too fast; then it came again.
    if counters["results_retransmitted"] == 0 and counters["dropped_duplicate"] == 0:
        assert lost_between([each.packets for each in captures]) == []
    assert account_of(packets).unfinished == []


def test_what_the_emulator_loses_is_seen_again(tmp_path: Path) -> None:
    wire = tmp_path / "wire.pcap"
    with Emulator(capture=str(wire), faults=new_faults(loss=0.2, seed=4)) as switch:
        train(switch.control_address, "udp")
        counters = switch.counters()
    packets = read_capture(wire).packets
    assert counters["fault_lost"] > 0
    # Some of what came was lost before the slots, which count the rest.
    assert sum(packet.to_switch for packet in packets) >= counters["packets_received"]
    account = account_of(packets)
    assert account.unfinished == []
    assert account.events


def test_in_memory_there_are_no_packets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWITCHML_CAPTURE", str(tmp_path / "wire.pcap"))
    with Emulator() as switch, pytest.raises(UsageError, match="no packets in memory"):
        Worker.join(switch.control_address, job="one", rank=0, world_size=1, transport="memory")
