"""Packets of a job as its workers put them on their links, and a load that keeps every slot of the job at work.

Every worker sends chunk p + window as soon as it has the result of chunk p, as the worker library does, but with frames that
are made beforehand: nothing is quantized, and what is measured is the switch.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from switchml.control.target import JobProgram, WorkerProgram
from switchml.errors import BenchError
from switchml.packets.ethernet import HEADERS_BYTES, UdpHeaders
from switchml.protocol.header import HEADER_BYTES, PLACES, Header, build_header
from switchml.protocol.messages import ELEMENT_BYTES, SUM, size_code

JOB = 5
_SEED = 20210412
_TSI = slice(HEADERS_BYTES + PLACES["tsi"].offset, HEADERS_BYTES + PLACES["tsi"].offset + PLACES["tsi"].width)
_AGAIN_SECONDS = 1.0  # longer than a busy machine may pause
_AGAIN_AT_ONCE = 4


@dataclass(frozen=True)
class Station:
    """Where a worker or the switch is."""

    mac: int
    address: str
    udp_port: int


@dataclass(frozen=True)
class Traffic:
    """A job's packets.

    Attributes:
        elements: int32 a packet.
        window: slots.
        switch: where the packets go.
        workers: where they come from, by rank.
    """

    elements: int
    window: int
    switch: Station
    workers: tuple[Station, ...]

    def job(self) -> JobProgram:
        """What a switch has to know of it; results go to each worker by unicast."""
        return JobProgram(
            job_number=JOB,
            pool_base=0,
            window=self.window,
            payload=ELEMENT_BYTES * self.elements,
            paper=False,
            workers=tuple(
                WorkerProgram(rank, "udp", worker.address, worker.udp_port, "")
                for rank, worker in enumerate(self.workers)
            ),
            multicast_group="",
            multicast_port=0,
        )


class Wire(Protocol):
    """The workers' ends of the links."""

    def send(self, rank: int, frame: bytearray) -> None:
        """May be given the same memory again afterwards."""

    def receive(self, seconds: float) -> Sequence[tuple[int, bytes]]:
        """Frames that came to a rank. Waits for the first one at most `seconds`."""


class Load:
    """A job under full load, from batch to batch.

    Attributes:
        traffic: its packets.
        retransmissions: packets sent again since the beginning.
        wrong: results that were not the sum.
    """

    def __init__(self, traffic: Traffic, wire: Wire, name: str, patience: float = 10.0) -> None:
        """Make the frames of both versions of every slot.

        Args:
            traffic: the job.
            wire: the workers' ends of the links.
            name: of the switch, for messages.
            patience: seconds without any result after which the switch is given up.
        """
        self.traffic = traffic
        self.retransmissions = self.wrong = 0
        self._wire = wire
        self._name = name
        self._patience = patience
        self._next = 0
        places = 2 * traffic.window  # slots in both versions
        random = np.random.default_rng([_SEED, traffic.elements])
        words = random.integers(0, 1 << 32, (len(traffic.workers), places, traffic.elements), dtype=np.uint32)
        self._frames = [
            [bytearray(_frame(traffic, rank, place, words[rank, place])) for place in range(places)]
            for rank in range(len(traffic.workers))
        ]
        sums = words.sum(axis=0, dtype=np.uint32)
        self._sums = [row.astype(">u4").tobytes() for row in sums]

    def run(self, chunks: int) -> int:
        """Have so many chunks reduced, from an idle switch to an idle switch; the packets that the workers sent.

        Raises:
            BenchError: no results.
        """
        begin, end, window = self._next, self._next + chunks, self.traffic.window
        waiting = [dict.fromkeys(range(begin, min(begin + window, end))) for _ in self.traffic.workers]
        self._next = end
        for rank, chunk_numbers in enumerate(waiting):
            for chunk in chunk_numbers:
                self._send(rank, chunk)
        left = chunks * len(waiting)
        heard = time.monotonic()
        while left:
            frames = self._wire.receive(_AGAIN_SECONDS)
            if not frames:
                self._send_again(waiting, heard)
                continue
            heard = time.monotonic()
            for rank, frame in frames:
                if len(frame) < HEADERS_BYTES + HEADER_BYTES:
                    continue
                chunk = int.from_bytes(frame[_TSI], "big")
                if chunk not in waiting[rank]:
                    continue  # the answer to a packet that was sent twice
                del waiting[rank][chunk]
                left -= 1
                if not frame.endswith(self._sums[chunk % (2 * window)]):
                    self.wrong += 1
                if chunk + window < end:
                    waiting[rank][chunk + window] = None
                    self._send(rank, chunk + window)
        return chunks * len(waiting)

    def _send(self, rank: int, chunk: int) -> None:
        frame = self._frames[rank][chunk % (2 * self.traffic.window)]
        frame[_TSI] = chunk.to_bytes(_TSI.stop - _TSI.start, "big")
        self._wire.send(rank, frame)

    def _send_again(self, waiting: list[dict[int, None]], heard: float) -> None:
        silence = time.monotonic() - heard
        if silence > self._patience:
            raise BenchError(f"{self._name}: no result for {silence:.0f} s, with packets waiting for one")
        for rank, chunks in enumerate(waiting):
            for chunk in list(chunks)[
                :_AGAIN_AT_ONCE
            ]:  # a burst might be too much for the switch, again and again
                self._send(rank, chunk)
                self.retransmissions += 1


def _frame(
    traffic: Traffic, rank: int, place: int, words: np.ndarray[tuple[int], np.dtype[np.uint32]]
) -> bytes:
    """A frame with elements, its `tsi` still to be filled in. place: version * window + slot."""
    version, slot = divmod(place, traffic.window)
    size = size_code(ELEMENT_BYTES * traffic.elements)
    header = Header(SUM, size=size, job_number=JOB, version=version, slot=slot)
    packet = build_header(header) + words.astype(">u4").tobytes()
    worker, switch = traffic.workers[rank], traffic.switch
    layers = UdpHeaders(
        worker.mac.to_bytes(6, "big"),
        switch.mac.to_bytes(6, "big"),
        ipaddress.IPv4Address(worker.address).packed,
        ipaddress.IPv4Address(switch.address).packed,
        worker.udp_port,
        switch.udp_port,
    )
    return layers.build(len(packet)) + packet
