"""Packets of any bytes to the native pipeline: each is counted once, and none touches another job's sums."""

from __future__ import annotations

import random
import resource
import socket
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fuzz_budget import inputs

from switchml.control.target import JobProgram, WorkerProgram
from switchml.link.datagrams import socket_address
from switchml.link.records import table_of
from switchml.protocol.header import HEADER_BYTES, build_header
from switchml.protocol.jit import compiled
from switchml.protocol.probes import new_secret, probe_header, ticket_of_secret
from switchml.switch_emulator.native_target import EmulatorTarget
from switchml.switch_emulator.pipeline import _flush_train, switch_at, take_message

pytestmark = pytest.mark.timeout(600)

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

_BATCH, _ROOM = 1000, 400
_PAYLOAD, _WINDOW, _WORKERS = 128, 8, 3
_STAMPED, _PAPER, _CLAIMED, _UNTOUCHED = 1, 2, 3, 4
_MOST_KILOBYTES = 64 << 10


@compiled
def _feed(
    handle: int, packets: Bytes, lengths: Longs, segments: Longs, senders: Longs, names: Longs, found: Longs
) -> None:
    memory = switch_at(handle).link.rx_memory
    for index in range(lengths.size):
        for at in range(packets.shape[1]):
            memory[at] = packets[index, at]
        address, port = names[senders[index]]
        found[index] = take_message(handle, address, port, 0, lengths[index], segments[index])
    _flush_train(handle)


class _Bench:
    """A switch with four jobs: stamped, paper, one of claims alone, and one that nobody sends to."""

    def __init__(self) -> None:
        self.target = EmulatorTarget()
        self.handle = table_of(self.target.switch)
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4 * _WORKERS)]
        for each in self.sockets:
            each.bind(("127.0.0.1", 0))
        self.secrets = [new_secret() for _ in range(_WORKERS)]
        for number in (_STAMPED, _PAPER, _CLAIMED, _UNTOUCHED):
            self.target.add_job(self.program(number))
        # Those of the first three jobs, and two strangers.
        found = [each.getsockname() for each in self.sockets[: 3 * _WORKERS]]
        names = [socket_address(*place)[0] for place in (*found, ("127.0.0.1", 9), ("10.0.0.1", 48864))]
        self.names = np.array([[int(name["address"]), int(name["port"])] for name in names], np.int64)

    def program(self, number: int) -> JobProgram:
        places = [each.getsockname() for each in self.sockets[(number - 1) * _WORKERS : number * _WORKERS]]
        tickets = (
            [ticket_of_secret(secret) for secret in self.secrets] if number == _CLAIMED else [""] * _WORKERS
        )
        workers = tuple(
            WorkerProgram(rank, "udp", *place, ticket)
            for rank, (place, ticket) in enumerate(zip(places, tickets, strict=True))
        )
        return JobProgram(number, number * _WINDOW, _WINDOW, _PAYLOAD, number == _PAPER, workers, "", 0)

    def renew(self, number: int) -> None:
        self.target.remove_job(number)
        self.target.add_job(self.program(number))

    def untouched(self) -> tuple[bytes, bytes]:
        """Slots and sums of the job that gets no packets."""
        pool = self.target.switch.pool
        first = int(self.target.switch.tables.jobs[_UNTOUCHED]["sums_base"])
        slots = pool.slots[2 * _UNTOUCHED * _WINDOW : 2 * (_UNTOUCHED + 1) * _WINDOW]
        return slots.tobytes(), pool.sums[first : first + 2 * _WINDOW * _PAYLOAD // 4].tobytes()

    def close(self) -> None:
        self.target.close()
        for each in self.sockets:
            each.close()


def _packets(rng: random.Random, bench: _Bench) -> tuple[Bytes, Longs, Longs, Longs]:
    """Bytes, lengths, lengths of packets in trains, and senders of a batch: most are nearly sound."""
    dice = np.random.default_rng(rng.getrandbits(64))
    packets = dice.integers(0, 256, (_BATCH, _ROOM), np.uint8)
    senders = dice.integers(0, len(bench.names), _BATCH)
    sound = dice.random(_BATCH) < 0.9

    def put(column: int, values: Any, chance: float) -> None:
        where = sound & (dice.random(_BATCH) < chance)
        packets[where, column] = np.broadcast_to(np.asarray(values, np.uint8), _BATCH)[where]

    put(0, dice.choice(np.array([0x10, 0x10, 0x10, 0x20, 0x30], np.uint8), _BATCH), 0.95)
    put(1, senders // _WORKERS + 1, 0.95)
    tsi = dice.integers(0, 4 * _WINDOW, _BATCH)
    for column in (2, 3, 4):
        put(column, 0, 0.97)
    put(5, tsi, 0.97)
    put(6, (tsi // _WINDOW) % 2 << 7, 0.97)
    put(7, tsi % _WINDOW, 0.97)
    lengths = dice.choice([HEADER_BYTES + _PAYLOAD, HEADER_BYTES + _PAYLOAD, HEADER_BYTES], _BATCH)
    lengths = np.where(dice.random(_BATCH) < 0.1, dice.integers(0, _ROOM + 1, _BATCH), lengths)
    for rank, secret in enumerate(bench.secrets):
        challenges = [
            int(each["challenge"]) for each in bench.target.switch.tables.senders if each["claim"] == secret
        ]
        for number in (secret, *challenges):
            row = rng.randrange(_BATCH)
            packets[row, :HEADER_BYTES] = np.frombuffer(
                build_header(probe_header(_CLAIMED, number)), np.uint8
            )
            lengths[row], senders[row] = HEADER_BYTES, 2 * _WORKERS + rank
    trains = dice.random(_BATCH) < 0.1
    segments = np.where(trains, dice.integers(1, _ROOM, _BATCH), np.maximum(lengths, 1))
    return packets, lengths.astype(np.int64), segments.astype(np.int64), senders.astype(np.int64)


def test_packets_of_any_bytes() -> None:
    bench = _Bench()
    target = bench.target
    known = np.zeros(len(bench.names), bool)
    known[: 2 * _WORKERS] = True
    nothing = np.zeros(0, np.int64)
    try:
        # Compiles it, which takes longer than a command may.
        _feed(
            bench.handle.ctypes.data,
            np.zeros((0, _ROOM), np.uint8),
            nothing,
            nothing,
            nothing,
            bench.names,
            nothing,
        )
        before = bench.untouched()
        memory = 0
        for rng in inputs(20, 0.1, each=_BATCH):
            packets, lengths, segments, senders = _packets(rng, bench)
            found = np.zeros(_BATCH, np.int64)
            counted = target.counters()["packets_received"]

            def feed(
                batch: tuple[Any, ...] = (packets, lengths, segments, senders, bench.names, found),
            ) -> None:
                _feed(bench.handle.ctypes.data, *batch)

            target.between_packets(feed)
            assert target.counters()["packets_received"] - counted == found.sum()
            ours = known[senders]
            assert (found[ours] == np.maximum(1, -(-lengths[ours] // segments[ours]))).all()
            assert bench.untouched() == before
            if rng.random() < 0.1:
                bench.renew(rng.choice((_STAMPED, _PAPER, _CLAIMED)))
            memory = memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told = target.counters()
    finally:
        bench.close()
    # All ways through the pipeline were taken, but for those of a full socket and of tenants.
    ways = [name for name in told if name.startswith(("dropped", "results", "chunks", "probes"))]
    others = ["dropped_port_full", "dropped_over_limit", "dropped_by_kernel"]
    assert [name for name in ways if not told[name]] == others
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < _MOST_KILOBYTES
