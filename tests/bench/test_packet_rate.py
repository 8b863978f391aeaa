"""The packet benchmark: its load against a switch in a few lines, its switches, and the command."""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from switchml.bench.cli import bench_app
from switchml.bench.packet_load import Load, Station, Traffic
from switchml.bench.packet_rate import PacketPlan, PacketRate, measure_packets, steps
from switchml.bench.plots import draw_packets
from switchml.errors import BenchError, UsageError
from switchml.packets.ethernet import HEADERS_BYTES
from switchml.protocol.header import HEADER_BYTES, Header, parse_header
from switchml.protocol.messages import SUM
from switchml.testbed import why_unavailable

PROGRAMS = Path(__file__).parents[2] / "p4" / "build"
NO_TESTBED = why_unavailable()
ELEMENTS_AT = HEADERS_BYTES + HEADER_BYTES
TRAFFIC = Traffic(
    64, 4, Station(0xFE, "10.0.0.254", 0xBEE0), (Station(1, "10.0.0.1", 5000), Station(2, "10.0.0.2", 5001))
)


class Adder:
    """A wire to a switch that adds what comes for a slot's version and answers both workers; `spoil` changes its answers."""

    def __init__(self, *, lose: int = 0, spoil: bool = False, deaf: bool = False) -> None:
        self.lose, self.spoil, self.deaf = lose, spoil, deaf
        self.frames: list[bytes] = []
        self._partial: dict[int, tuple[int, ...]] = {}
        self._answers: deque[tuple[int, bytes]] = deque()

    def send(self, rank: int, frame: bytearray) -> None:
        self.frames.append(bytes(frame))
        if self.lose > 0:
            self.lose -= 1
            return
        chunk = parse_header(frame[HEADERS_BYTES:]).tsi
        words = struct.unpack_from("!64I", frame, ELEMENTS_AT)
        if chunk not in self._partial:
            self._partial[chunk] = words
            return
        sums = [
            (one + other + self.spoil) & 0xFFFFFFFF
            for one, other in zip(self._partial[chunk], words, strict=True)
        ]
        answer = bytes(frame[:ELEMENTS_AT]) + struct.pack("!64I", *sums)
        self._answers += [(0, answer), (1, answer), (1, answer)]

    def receive(self, seconds: float) -> Sequence[tuple[int, bytes]]:
        answers, self._answers = list(self._answers), deque()
        return [] if self.deaf else answers


def test_every_slot_is_at_work_and_every_chunk_is_summed_once() -> None:
    wire = Adder()
    load = Load(TRAFFIC, wire, "adder")
    assert load.run(11) == 22
    assert (load.wrong, load.retransmissions) == (0, 0)
    sent = [parse_header(frame[HEADERS_BYTES:]) for frame in wire.frames]
    assert [header.tsi for header in sent[:8]] == [0, 1, 2, 3] * 2
    assert sorted(header.tsi for header in sent) == sorted([*range(11)] * 2)
    for header in sent:
        assert header == Header(
            SUM, size=1, job_number=5, tsi=header.tsi, version=header.tsi // 4 % 2, slot=header.tsi % 4
        )
    # The next batch goes on where this one ended.
    wire.frames.clear()
    load.run(1)
    assert [parse_header(frame[HEADERS_BYTES:]).tsi for frame in wire.frames] == [11, 11]


def test_frames_are_what_a_worker_sends() -> None:
    pytest.importorskip("scapy", reason="scapy is in the extra `scapy`")
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    wire = Adder()
    Load(TRAFFIC, wire, "adder").run(1)
    packet = Ether(wire.frames[1])
    assert (packet.src, packet.dst) == ("00:00:00:00:00:02", "00:00:00:00:00:fe")
    assert (packet[IP].src, packet[IP].dst) == ("10.0.0.2", "10.0.0.254")
    assert (packet[UDP].sport, packet[UDP].dport, packet[UDP].len) == (5001, 0xBEE0, 8 + 10 + 256)
    del packet[IP].chksum
    assert bytes(packet) == wire.frames[1]


def test_what_is_lost_is_sent_again() -> None:
    load = Load(TRAFFIC, Adder(lose=3), "adder")
    load.run(6)
    assert load.wrong == 0
    assert load.retransmissions > 0


def test_a_wrong_sum_is_counted() -> None:
    load = Load(TRAFFIC, Adder(spoil=True), "adder")
    load.run(6)
    assert load.wrong == 12


def test_a_silent_switch_is_given_up() -> None:
    load = Load(TRAFFIC, Adder(deaf=True), "adder", patience=0.05)
    with pytest.raises(BenchError, match="adder: no result"):
        load.run(6)


class Watcher:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.steps = 0

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def step(self) -> None:
        self.steps += 1


def _plan(switches: list[str], **changes: object) -> PacketPlan:
    chosen = {
        "elements": [64], "workers": 2, "window": 8, "rounds": 2, "min_time": 0.01, "programs": PROGRAMS, "bmv2": None,
        **changes,
    }  # fmt: skip
    return PacketPlan(switches, **chosen)  # type: ignore[arg-type]


def _check(found: list[PacketRate], names: list[str]) -> None:
    assert [one.switch for one in found] == names
    for one in found:
        assert one.wrong == 0
        assert len(one.rounds) == 2
        assert min(one.rounds) > 0
        assert set(one.against) == set(names) - {one.switch}


def test_the_p4_pipeline_in_memory() -> None:
    pytest.importorskip(
        "google.rpc.status_pb2",
        reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'",
    )
    plan, watcher = _plan(["p4-memory"], workers=3), Watcher()
    _check(list(measure_packets(plan, watcher)), ["p4-memory"])
    assert watcher.steps == steps(plan)


@pytest.mark.namespaces
@pytest.mark.skipif(NO_TESTBED is not None, reason=f"no testbed here: {NO_TESTBED}")
def test_the_emulator_s_pipelines_on_links() -> None:
    pytest.importorskip(
        "google.rpc.status_pb2",
        reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'",
    )
    _check(list(measure_packets(_plan(["native", "p4"]), Watcher())), ["native", "p4"])


@pytest.mark.namespaces
@pytest.mark.skipif(NO_TESTBED is not None, reason=f"no testbed here: {NO_TESTBED}")
def test_bmv2_on_the_same_links() -> None:
    pytest.importorskip(
        "google.rpc.status_pb2",
        reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'",
    )
    from switchml.stf.bmv2 import find_bmv2
    from switchml.stf.bmv2_cli import Bmv2Error

    try:
        bmv2 = find_bmv2()
    except Bmv2Error as error:
        pytest.skip(str(error))
    _check(list(measure_packets(_plan(["bmv2"], bmv2=bmv2), Watcher())), ["bmv2"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"switches": ["nosuch"]}, "choose from native, p4, p4-memory, bmv2"),
        ({"switches": ["p4", "p4"]}, "each once"),
        ({"switches": ["bmv2"]}, "simple_switch"),
        ({"workers": 65}, "1 to 64"),
        ({"window": 48}, "power of two"),
        ({"elements": [100]}, "32, 64, 128"),
        ({"rounds": 0}, "one round"),
    ],
)
def test_plans_that_cannot_be(changes: dict[str, object], said: str) -> None:
    plan = _plan(**{"switches": ["p4-memory"], **changes})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        plan.validate()


def test_a_size_that_the_program_was_not_compiled_for() -> None:
    pytest.importorskip(
        "google.rpc.status_pb2",
        reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'",
    )
    with pytest.raises(UsageError, match=r"switchml_128\.json does not exist"):
        list(measure_packets(_plan(["p4-memory"], elements=[128]), Watcher()))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(
        "google.rpc.status_pb2",
        reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SWITCHML_BMV2", raising=False)
    record = tmp_path / "packets.json"
    options = ["--elements", "64", "--window", "8", "--rounds", "2", "--min-time", "0.01"]
    options += ["--programs", str(PROGRAMS), "--json", str(record)]
    done = CliRunner().invoke(bench_app, ["packets", "--switches", "p4-memory,bmv2", *options])
    assert done.exit_code == 0, done.output
    assert "bmv2 is left out: simple_switch" in done.output
    document = json.loads(record.read_text())
    assert document["plan"]["switches"] == ["p4-memory"]
    (result,) = document["results"]
    assert result["switch"] == "p4-memory"
    assert result["rate"]["minimum"] <= result["rate"]["median"] <= result["rate"]["maximum"]
    assert result["wrong"] == 0


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra `bench`")
    found = [
        PacketRate(name, elements, 2, (rate, 1.2 * rate), 0, 0)
        for elements in (64, 256)
        for name, rate in (("native", 9e4), ("p4", 2e4), ("bmv2", 1e3))
    ]
    target = tmp_path / "packets.png"
    draw_packets(found, target)
    assert target.read_bytes().startswith(b"\x89PNG")
