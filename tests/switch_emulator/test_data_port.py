"""Raw packets at a switch's data port: each kind of bad one moves exactly its own counter and brings no answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from switchml.control.target import JobProgram, WorkerProgram
from switchml.protocol.header import HEADER_BYTES, MAX_WINDOW, RESERVED, Header, build_header, parse_header
from switchml.protocol.messages import ABSENT, EXPONENTS, PROBE, SUM
from switchml.switch_emulator.native_target import EmulatorTarget

JOB, WINDOW, PAYLOAD = 5, 4, 128
GOOD = Header(SUM, job_number=JOB, e0=1, e1=2)
ELEMENTS = bytes(range(PAYLOAD))


class Bench:
    """A switch with one job of two workers, whose sockets are ours."""

    def __init__(self, *, paper: bool = False) -> None:
        self.target = EmulatorTarget()
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        for sock in self.sockets:
            sock.bind(("127.0.0.1", 0))
            sock.connect(("127.0.0.1", self.target.describe().udp_port))
        self.program = JobProgram(
            job_number=JOB,
            pool_base=0,
            window=WINDOW,
            payload=PAYLOAD,
            paper=paper,
            workers=tuple(
                WorkerProgram(rank, "udp", "127.0.0.1", self.sockets[rank].getsockname()[1], "")
                for rank in range(2)
            ),
            multicast_group="",
            multicast_port=0,
        )
        self.target.add_job(self.program)

    def send(self, worker: int, packet: bytes) -> dict[str, int]:
        """Send one packet; what it did to the counters. Worker 2 is a stranger."""
        before = self.target.counters()
        self.sockets[worker].send(packet)
        deadline = time.monotonic() + 30
        while self.target.counters()["packets_received"] == before["packets_received"]:
            assert time.monotonic() < deadline, "the packet did not come through"
            time.sleep(0.001)
        after = self.target.between_packets(self.target.counters)
        changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        assert changed.pop("packets_received") == 1
        assert changed.pop("bytes_received", 0) == len(packet)
        return changed

    def answer(self, worker: int) -> bytes:
        self.sockets[worker].settimeout(5)
        return self.sockets[worker].recv(65536)

    def silent(self) -> bool:
        """Nothing lies in any worker's socket. Only after `send`, whose counters are read after the answers left."""
        for sock in self.sockets:
            sock.setblocking(False)
            try:
                sock.recv(65536)
            except BlockingIOError:
                continue
            return False
        return True

    def close(self) -> None:
        self.target.close()
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def _packet(elements: bytes = ELEMENTS, **changes: int) -> bytes:
    return build_header(GOOD._replace(**changes)) + elements


BAD = {
    "a stranger's": (2, _packet(), "dropped_unknown_sender"),
    "empty": (0, b"", "dropped_truncated"),
    "less than a header": (0, _packet()[: HEADER_BYTES - 1], "dropped_truncated"),
    "a header alone": (0, _packet(b""), "dropped_truncated"),
    "one byte short": (0, _packet()[:-1], "dropped_truncated"),
    "one byte long": (0, _packet() + b"x", "dropped_wrong_size"),
    "another size code": (0, _packet(size=1), "dropped_wrong_size"),
    "another size, complete": (0, _packet(bytes(256), size=1), "dropped_wrong_size"),
    "exponents with elements": (0, _packet(msg_type=EXPONENTS), "dropped_wrong_size"),
    "message type 0": (0, _packet(msg_type=0), "dropped_bad_header"),
    "message type 5": (0, _packet(msg_type=5), "dropped_bad_header"),
    "exponents to one": (0, _packet(b"", msg_type=EXPONENTS, to_one=1), "dropped_bad_header"),
    "a probe to one": (0, _packet(b"", msg_type=PROBE, to_one=1), "dropped_bad_header"),
    "absent with elements": (0, _packet(msg_type=ABSENT), "dropped_wrong_size"),
    "absent of another size": (0, _packet(b"", msg_type=ABSENT, size=1), "dropped_wrong_size"),
    **{f"{name} bit": (0, _packet(**{name: 1}), "dropped_bad_header") for name in RESERVED},
    "another job": (0, _packet(job_number=JOB + 1), "dropped_wrong_job"),
    "another job's probe": (0, _packet(b"", msg_type=PROBE, job_number=0), "dropped_wrong_job"),
    "slot beyond the window": (0, _packet(slot=WINDOW, tsi=WINDOW), "dropped_wrong_slot"),
    "the last slot there is": (0, _packet(slot=MAX_WINDOW - 1), "dropped_wrong_slot"),
    "slot not the sequence number's": (0, _packet(slot=1), "dropped_wrong_version"),
    "version not the sequence number's": (0, _packet(version=1), "dropped_wrong_version"),
    "sequence number of the other version": (0, _packet(tsi=WINDOW), "dropped_wrong_version"),
}


def test_bad_packets_move_their_own_counter_and_nothing_else(bench: Bench) -> None:
    for name, (worker, packet, counter) in BAD.items():
        assert bench.send(worker, packet) == {counter: 1}, name
        assert bench.silent(), name
    assert not bench.target.read_slot(JOB, 0, 0).used
    told = bench.target.job_counters(JOB)
    assert told["packets_received"] == len(BAD) - 1, "the stranger's is nobody's"


def test_a_chunk_and_its_duplicates(bench: Bench) -> None:
    assert bench.send(0, _packet(e0=-3)) == {"elements_added": 32}
    assert bench.send(0, _packet(e0=99)) == {"dropped_duplicate": 1}
    assert bench.send(1, _packet(b"", msg_type=EXPONENTS)) == {"dropped_wrong_size": 1}, (
        "the chunk has elements"
    )
    assert bench.silent()
    reading = bench.target.read_slot(JOB, 0, 0)
    assert (reading.stamp, reading.used, reading.seen) == (0, True, frozenset({0}))
    size = HEADER_BYTES + PAYLOAD
    done = {"elements_added": 32, "chunks_completed": 1, "packets_sent": 2, "bytes_sent": 2 * size}
    assert bench.send(1, _packet(e0=7)) == done
    answers = [bench.answer(worker) for worker in range(2)]
    assert answers[0] == answers[1]
    assert parse_header(answers[0]) == GOOD._replace(e0=7)
    assert answers[0][HEADER_BYTES : HEADER_BYTES + 8] == bytes.fromhex("00020406 080a0c0e")
    again = {"results_retransmitted": 1, "packets_sent": 1, "bytes_sent": size}
    assert bench.send(0, _packet(e0=-3)) == again
    assert bench.answer(0) == answers[0]
    assert bench.silent(), "only who asked again is answered"


def _complete(bench: Bench, **changes: int) -> None:
    for worker in range(2):
        assert bench.send(worker, _packet(**changes))["elements_added"] == 32
    for worker in range(2):
        bench.answer(worker)


def test_packets_before_their_turn(bench: Bench) -> None:
    """In a worker's name, with a sequence number far ahead or only a window too early: the slot stays where it is."""
    early = [_packet(tsi=1 << 30), _packet(tsi=2 * WINDOW), _packet(tsi=WINDOW, version=1)]
    for packet in early:
        assert bench.send(0, packet) == {"dropped_ahead": 1}
    assert not bench.target.read_slot(JOB, 0, 0).used
    bench.send(1, _packet())
    for packet in early:
        assert bench.send(0, packet) == {"dropped_ahead": 1}
    assert bench.target.read_slot(JOB, 0, 0).seen == {1}
    assert bench.send(0, _packet())["chunks_completed"] == 1
    assert bench.send(0, _packet(tsi=2 * WINDOW)) == {"dropped_ahead": 1}
    assert bench.send(0, _packet(tsi=WINDOW, version=1)) == {"elements_added": 32}


def test_stale_packets(bench: Bench) -> None:
    _complete(bench)
    _complete(bench, tsi=WINDOW, version=1)
    assert bench.send(0, _packet(tsi=2 * WINDOW)) == {"elements_added": 32}
    assert bench.send(0, _packet()) == {"dropped_stale": 1}
    assert bench.send(1, _packet()) == {"dropped_stale": 1}
    assert bench.silent()


_SIZE = HEADER_BYTES + PAYLOAD


def test_who_is_absent_sends_no_elements(bench: Bench) -> None:
    absent = _packet(b"", msg_type=ABSENT)
    assert bench.send(0, absent) == {}
    done = {"elements_added": 32, "chunks_completed": 1, "packets_sent": 2, "bytes_sent": 2 * _SIZE}
    assert bench.send(1, _packet(e0=7)) == done
    answer = build_header(GOOD._replace(e0=7)) + ELEMENTS
    assert [bench.answer(worker) for worker in range(2)] == [answer, answer]
    assert bench.send(0, absent) == {"results_retransmitted": 1, "packets_sent": 1, "bytes_sent": _SIZE}
    assert bench.answer(0) == answer


def test_what_all_are_absent_from_comes_back_as_a_header(bench: Bench) -> None:
    absent = _packet(b"", msg_type=ABSENT, to_one=1)
    assert bench.send(1, absent) == {}
    assert bench.send(0, absent) == {"chunks_completed": 1, "packets_sent": 2, "bytes_sent": 2 * HEADER_BYTES}
    for worker in range(2):
        assert bench.answer(worker) == build_header(GOOD._replace(msg_type=ABSENT))


def test_elements_go_to_the_one_that_wants_them(bench: Bench) -> None:
    """And when they are asked for again."""
    packets = [_packet(e0=9, e1=1, to_one=1), _packet(b"", msg_type=ABSENT, e1=1, to_one=1)]
    bench.send(0, packets[0])
    assert bench.send(1, packets[1]) == {
        "chunks_completed": 1, "packets_sent": 2, "bytes_sent": HEADER_BYTES + _SIZE,
    }  # fmt: skip
    answer = GOOD._replace(e0=9, e1=1, to_one=1)
    expected = [build_header(answer._replace(msg_type=ABSENT)), build_header(answer) + ELEMENTS]
    assert [bench.answer(worker) for worker in range(2)] == expected
    for worker in range(2):
        assert bench.send(worker, packets[worker])["results_retransmitted"] == 1
        assert bench.answer(worker) == expected[worker]
    assert bench.silent()


@pytest.mark.parametrize("wanted", [2, -1])
def test_elements_that_no_worker_wants_go_nowhere(bench: Bench, wanted: int) -> None:
    for worker in range(2):
        bench.send(worker, _packet(to_one=1, e1=wanted))
    for worker in range(2):
        assert bench.answer(worker) == build_header(GOOD._replace(msg_type=ABSENT, e1=wanted, to_one=1))
    assert bench.silent()


def test_exponents_travel_alone(bench: Bench) -> None:
    assert bench.send(0, _packet(b"", msg_type=EXPONENTS, e0=-9, e1=-128)) == {}
    changed = bench.send(1, _packet(b"", msg_type=EXPONENTS, e0=-20, e1=4))
    assert changed == {"chunks_completed": 1, "packets_sent": 2, "bytes_sent": 2 * HEADER_BYTES}
    for worker in range(2):
        assert parse_header(bench.answer(worker)) == GOOD._replace(msg_type=EXPONENTS, e0=-9, e1=4)


def test_a_probe_comes_back_as_it_is(bench: Bench) -> None:
    probe = _packet(b"", msg_type=PROBE, tsi=123456789)
    assert bench.send(1, probe) == {"probes_answered": 1, "packets_sent": 1, "bytes_sent": HEADER_BYTES}
    assert bench.answer(1) == probe
    assert bench.silent()


def test_last_heard(bench: Bench) -> None:
    assert bench.target.last_heard(JOB) == [None, None]
    bench.send(1, b"")
    heard = bench.target.last_heard(JOB)
    assert heard[0] is None
    assert heard[1] is not None
    assert 0 <= heard[1] < 10


def test_workers_of_an_ended_job_are_strangers(bench: Bench) -> None:
    bench.send(0, _packet())
    before = bench.target.counters()
    bench.target.remove_job(JOB)
    assert bench.target.counters() == before, "what an ended job did still counts"
    assert bench.send(0, _packet()) == {"dropped_unknown_sender": 1}
    bench.target.add_job(bench.program)
    assert not bench.target.read_slot(JOB, 0, 0).used
    assert bench.send(0, _packet()) == {"elements_added": 32}


def test_a_job_with_the_published_machine_takes_any_version() -> None:
    bench = Bench(paper=True)
    try:
        assert bench.send(0, _packet(version=1)) == {"elements_added": 32}
        assert bench.target.read_slot(JOB, 0, 1).used
        assert bench.send(0, _packet(slot=WINDOW)) == {"dropped_wrong_slot": 1}
    finally:
        bench.close()


def test_repeats_are_counted_by_range_of_slots(bench: Bench) -> None:
    """Of sixteen ranges four slots use every fourth."""
    first, last = _packet(slot=1, tsi=1), _packet(slot=3, tsi=3)
    bench.send(0, first)
    bench.send(0, first)
    bench.send(0, last)
    bench.send(1, last)
    bench.send(1, last)
    found = bench.target.slot_map(JOB)
    assert {at: count for at, count in enumerate(found.dropped) if count} == {4: 1}
    assert {at: count for at, count in enumerate(found.resent) if count} == {12: 1}
    assert (found.missing, found.first, found.late) == ((0, 1, 0, 0), (-1, 1, -1, -1), (0, 1))
