"""Memory ports, and what is wrapped around ports: capture, trace, faults."""

from __future__ import annotations

import select
import threading
import time
from pathlib import Path

import pytest
from memory_ports import MemoryPorts

from switchml.errors import UsageError
from switchml.packets.ethernet import UdpHeaders
from switchml.packets.pcap import read_pcap
from switchml.packets.summary import summary
from switchml.protocol.header import Header, build_header
from switchml.protocol.messages import SUM
from switchml.switch_emulator.ports.capture import CapturedPorts
from switchml.switch_emulator.ports.faulty import FaultRates, FaultyPorts
from switchml.switch_emulator.ports.numbering import parse_interfaces
from switchml.switch_emulator.ports.trace import TracedPorts

HEADERS = UdpHeaders(
    *(bytes.fromhex("020000000001"), bytes.fromhex("02534d4c0001")),
    *(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 9]), 5000, 0xBEE0),
)


def udp_frame(payload: bytes) -> bytes:
    return HEADERS.build(len(payload)) + payload


def numbered(count: int) -> list[bytes]:
    return [udp_frame(index.to_bytes(4, "big")) for index in range(count)]


def now() -> float:
    return time.monotonic()


def test_memory_hands_frames_in_and_out() -> None:
    with MemoryPorts() as ports:
        assert ports.receive(now()) == []
        ports.put(2, b"first", 7)
        ports.put(3, b"second", 8)
        assert select.select([ports], [], [], 0)[0]
        assert ports.receive(now() + 5) == [(2, b"first", 7), (3, b"second", 8)]
        assert not select.select([ports], [], [], 0)[0]
        ports.send(1, b"answer")
        assert [(frame.port, frame.data) for frame in ports.sent] == [(1, b"answer")]


def test_a_waiting_receive_is_woken() -> None:
    with MemoryPorts() as ports:
        timer = threading.Timer(0.05, ports.put, (4, b"late"))
        timer.start()
        frames = ports.receive(now() + 20)
        timer.join()
        assert [frame.port for frame in frames] == [4]


def test_a_capture_has_both_directions(tmp_path: Path) -> None:
    inner = MemoryPorts()
    with CapturedPorts(inner, tmp_path / "all.pcap") as ports:
        inner.put(1, b"in" * 10, 1000)
        ports.receive(now())
        ports.send(2, b"out" * 10)
    captured = list(read_pcap(tmp_path / "all.pcap"))
    assert [record.data for record in captured] == [b"in" * 10, b"out" * 10]
    assert captured[0].time == 1000
    assert [frame.data for frame in inner.sent] == [b"out" * 10]


def test_frames_that_are_sent_together_pass_every_wrapper(tmp_path: Path) -> None:
    lines: list[str] = []
    inner = MemoryPorts()
    captured = CapturedPorts(TracedPorts(inner, lines.append), tmp_path / "all.pcap")
    with FaultyPorts(captured, FaultRates(duplicate=1.0)) as ports:
        ports.send_all([(1, b"one" * 20), (2, b"two" * 20)])
        assert ports.counters()["fault_duplicated"] == 2
    twice = [b"one" * 20] * 2 + [b"two" * 20] * 2
    assert [frame.data for frame in inner.sent] == twice
    assert [record.data for record in read_pcap(tmp_path / "all.pcap")] == twice
    assert len(lines) == 4


def test_a_trace_decodes_our_header() -> None:
    lines: list[str] = []
    inner = MemoryPorts()
    packet = build_header(Header(SUM, size=1, job_number=7, tsi=70000, version=1, slot=3, e0=-5)) + bytes(256)
    with TracedPorts(inner, lines.append) as ports:
        inner.put(1, udp_frame(packet), 3_600_000_000_000 + 1_500)
        ports.receive(now())
        ports.send(12, udp_frame(b"short")[:-1] + b"!")
    assert lines[0] == (
        "01:00:00.000001 port 1   -> 10.0.0.1:5000 > 10.0.0.9:48864 "
        "SwitchML SUM job 7 tsi 70000 slot 3 version 1 exponents -5,0, 64 elements"
    )
    assert "port 12  <-" in lines[1]
    assert "cut off after 5 bytes" in lines[1]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"", "too short"),
        (bytes(12) + b"\x08\x00" + bytes(3), "type 0x0800, 17 bytes"),
        (bytes.fromhex("ffffffffffff0200000000010806" "0001080006040001020000000001" "0a000001"
                       "000000000000" "0a000002"), "ARP who has 10.0.0.2? tell 10.0.0.1"),
        (bytes.fromhex("ffffffffffff0200000000010806" "0001080006040002020000000001" "0a000001"
                       "000000000000" "0a000002"), "ARP 10.0.0.1 is at 02:00:00:00:00:01"),
        (bytes(12) + bytes.fromhex("8100 2005 86dd") + bytes(40), "VLAN 5 "),
        (udp_frame(b"")[:14] + bytes.fromhex("4500001c00000000400100000a0000010a000009") + b"\x08" + bytes(7),
         "10.0.0.1 > 10.0.0.9 ICMP echo request"),
    ],
)  # fmt: skip
def test_every_frame_has_a_summary(frame: bytes, said: str) -> None:
    assert said in summary(frame)


def test_a_summary_of_any_prefix_and_any_byte_does_not_fail() -> None:
    frame = udp_frame(build_header(Header(SUM, size=1, job_number=7, tsi=1, version=1, slot=3)))
    for length in range(len(frame)):
        assert summary(frame[:length])
    for at in range(len(frame)):
        assert summary(frame[:at] + b"\xff" + frame[at + 1 :])


def drive(rates: FaultRates, count: int = 2000) -> tuple[list[bytes], list[bytes], dict[str, int]]:
    """What of `count` frames came in and went out."""
    inner = MemoryPorts()
    come: list[bytes] = []
    with FaultyPorts(inner, rates) as ports:
        for data in numbered(count):
            inner.put(1, data)
            for frame in ports.receive(now()):
                come.append(frame.data)
                ports.send(2, frame.data)
        while frames := ports.receive(now()):
            for frame in frames:
                come.append(frame.data)
                ports.send(2, frame.data)
        return come, [frame.data for frame in inner.sent], dict(ports.counters())


def test_without_faults_everything_passes_in_order() -> None:
    come, gone, counters = drive(FaultRates(seed=3))
    assert come == gone == numbered(2000)
    assert set(counters.values()) == {0}


def test_loss_falls_on_both_ways_and_is_counted() -> None:
    come, gone, counters = drive(FaultRates(loss=0.1, seed=5))
    assert 120 < 2000 - len(come) < 280
    assert 100 < len(come) - len(gone) < 260
    assert counters["fault_lost"] == 2000 - len(gone)


def test_doubling_and_reordering_lose_nothing() -> None:
    come, gone, counters = drive(FaultRates(duplicate=0.1, reorder=0.1, seed=6))
    assert set(come) == set(numbered(2000))
    assert set(gone) == set(numbered(2000))
    assert len(gone) == 2000 + counters["fault_duplicated"]
    assert come != sorted(come)
    assert counters["fault_reordered"] > 100
    late = max(abs(come.index(data) - place) for place, data in enumerate(numbered(2000)))
    assert late > 5, "what is held back lets several pass"


def test_a_seed_repeats_the_faults() -> None:
    rates = FaultRates(loss=0.05, duplicate=0.05, reorder=0.05, seed=9)
    assert drive(rates) == drive(rates)
    assert drive(rates)[0] != drive(rates._replace(seed=10))[0]


def test_a_probability_is_checked() -> None:
    with MemoryPorts() as inner, pytest.raises(UsageError, match=r"loss = 1\.5"):
        FaultyPorts(inner, FaultRates(loss=1.5))


def test_ports_are_numbered_as_bmv2_does() -> None:
    assert parse_interfaces(["1@veth0", "7@veth2"]) == {1: "veth0", 7: "veth2"}
    assert parse_interfaces(["veth0", "0@veth2", "veth4"]) == {0: "veth2", 1: "veth0", 2: "veth4"}
    assert parse_interfaces([]) == {}


@pytest.mark.parametrize(
    "options", [["x@veth0"], ["1@"], ["510@veth0"], ["1@a", "1@b"], ["1@a", "2@a"], [""]]
)
def test_port_numbers_that_cannot_be_are_refused(options: list[str]) -> None:
    with pytest.raises(UsageError, match="-i"):
        parse_interfaces(options)
