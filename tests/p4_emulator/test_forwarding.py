"""The loop between ports and a pipeline, with pipelines that are a few lines of Python."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from memory_ports import MemoryPorts

from switchml.switch_emulator.forwarding import Forwarding
from switchml.switch_emulator.ports import Frame, Ports
from switchml.switch_emulator.ports.faulty import FaultRates, FaultyPorts


class Cable:
    """Sends every frame out by the other port of a pair, and twice by port 9."""

    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        return [(3 - port, frame)] + [(9, frame)] * 2


class Fragile:
    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        if frame == b"poison":
            raise ZeroDivisionError
        return [(port, frame)]


class Nothing:
    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        return []


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


@contextmanager
def forwarding(pipeline: object, ports: Ports) -> Iterator[Forwarding]:
    with Forwarding(ports, pipeline) as loop:  # type: ignore[arg-type]
        yield loop


def test_frames_go_through_in_order() -> None:
    ports = MemoryPorts()
    with forwarding(Cable(), ports) as loop:
        ports.put(1, b"a")
        ports.put(2, b"b")
        until(lambda: len(ports.sent) == 6)
        assert [(frame.port, frame.data) for frame in ports.sent] == [
            *((2, b"a"), (9, b"a"), (9, b"a")),
            *((1, b"b"), (9, b"b"), (9, b"b")),
        ]
        assert (loop.received, loop.sent) == (2, 6)
    assert ports.fileno() == -1, "the loop closes its ports"


def test_a_frame_that_breaks_the_pipeline_does_not_end_the_switch() -> None:
    ports = MemoryPorts()
    with forwarding(Fragile(), ports) as loop:
        for data in (b"poison", b"poison", b"fine"):
            ports.put(1, data)
        until(lambda: bool(ports.sent))
        assert [frame.data for frame in ports.sent] == [b"fine"]
        assert loop.failed == 2


def test_what_leaves_in_one_turn_leaves_together() -> None:
    class Batches(MemoryPorts):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[list[tuple[int, bytes]]] = []

        def send_all(self, frames: Iterable[tuple[int, bytes]]) -> None:
            self.batches.append(list(frames))

    ports = Batches()
    come = [bytes([number]) for number in range(40)]
    for data in [*come, b"poison"]:
        ports.put(1, data)
    with forwarding(Fragile(), ports) as loop:
        until(lambda: loop.sent == len(come))
        assert [frame for batch in ports.batches for frame in batch] == [(1, data) for data in come]
        assert 1 < len(ports.batches) < len(come) / 4, "neither one by one nor the first only after the last"


def test_a_packet_out_leaves_at_once() -> None:
    ports = MemoryPorts()
    with forwarding(Nothing(), ports) as loop:
        time.sleep(0.05)  # the loop sleeps by then
        loop.transmit([(4, b"out")])
        until(lambda: bool(ports.sent))
        assert ports.sent[0][:2] == (4, b"out")


class Later:
    """Every frame waits for its turn, and is lost there if it is poison."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: list[tuple[float, int, bytes]] = []

    def process(self, port: int, frame: bytes) -> list[tuple[int, bytes]]:
        self._waiting.append((time.monotonic() + self._seconds, port, frame))
        return []

    def depart(self) -> list[tuple[int, bytes]] | None:
        if self.until_departure() > 0:
            return None
        _, port, frame = self._waiting.pop(0)
        if frame == b"poison":
            raise ZeroDivisionError
        return [(port, frame)]

    def until_departure(self) -> float:
        return max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else math.inf


def test_frames_that_wait_leave_when_their_turn_comes() -> None:
    ports, later = MemoryPorts(), Later(0.1)
    come = time.monotonic()
    with Forwarding(ports, later, queues=later) as loop:
        for data in (b"poison", b"a", b"b"):
            ports.put(1, data)
        until(lambda: len(ports.sent) == 2)
        assert time.monotonic() - come >= 0.1
        assert [frame.data for frame in ports.sent] == [b"a", b"b"]
        assert (loop.received, loop.sent, loop.failed) == (3, 2, 1)


def test_a_packet_out_wakes_the_loop_for_its_turn() -> None:
    ports, later = MemoryPorts(), Later(0.0)
    with Forwarding(ports, later, queues=later) as loop:
        time.sleep(0.05)  # the loop sleeps by then
        later.process(4, b"out")
        loop.transmit([])
        until(lambda: bool(ports.sent))


def test_a_frame_that_is_held_back_leaves_when_nothing_moves() -> None:
    inner = MemoryPorts()
    with forwarding(Cable(), FaultyPorts(inner, FaultRates(reorder=1.0, seed=1))):
        inner.put(1, b"held")
        until(lambda: len(inner.sent) == 3)


def test_ticks_come_without_frames() -> None:
    ticked = threading.Event()
    ports = MemoryPorts()
    with Forwarding(ports, Nothing(), tick=ticked.set):
        assert ticked.wait(10)


def test_ports_that_break_end_the_loop_with_their_error() -> None:
    class Broken(MemoryPorts):
        def receive(self, deadline: float) -> list[Frame]:
            raise OSError("the card is gone")

    with forwarding(Nothing(), Broken()) as loop:
        assert loop.finished.wait(10)
        assert isinstance(loop.failure, OSError)


def test_closing_before_the_start_and_twice() -> None:
    ports = MemoryPorts()
    loop = Forwarding(ports, Nothing())
    loop.close()
    loop.close()
    assert ports.fileno() == -1
