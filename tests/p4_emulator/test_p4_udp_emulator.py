"""The P4 program behind a UDP port: workers join it as they join the native switch, whatever happens to their packets."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap

from switchml.control.p4runtime.p4runtime_client import P4RuntimeClient
from switchml.errors import InvalidTokenError, PortInUseError, UsageError
from switchml.p4runtime.refusals import NotPrimaryError
from switchml.packets.selection import Selection
from switchml.switch_emulator.emulator import Emulator
from switchml.switch_emulator.p4_emulator import P4UdpEmulator, Wrapping, read_program
from switchml.switch_emulator.ports.chosen_trace import ChosenTrace
from switchml.switch_emulator.ports.faulty import FaultRates
from switchml.worker import Worker

pytest.importorskip(
    "google.rpc.status_pb2", reason="the extra p4runtime is not installed: pip install 'switchml[p4runtime]'"
)

PROGRAM = Path(__file__).parents[2] / "p4" / "build" / "switchml_64.json"
PAYLOAD = 256
RANKS = 3
COUNT = 5000


def summed(
    switch: Emulator | P4UdpEmulator, wire: str = "float32"
) -> list[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """What every rank has after an all-reduce of normally distributed numbers of very different sizes."""

    def rank(number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        random = np.random.default_rng(number)
        values = (random.standard_normal(COUNT) * 10.0 ** random.integers(-20, 20, COUNT)).astype(np.float32)
        options = {"job": "one", "rank": number, "world_size": RANKS, "payload": PAYLOAD, "transport": "udp"}
        with Worker.join(switch.control_address, **options, window=16, wire=wire) as worker:
            worker.allreduce(values).wait(60)
        return values

    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(rank, range(RANKS)))


def test_sums_are_those_of_the_native_pipeline_bit_for_bit_under_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    capture = tmp_path / "wire.pcap"
    trace = ChosenTrace(lines.append, Selection())
    ranks: dict[tuple[str, int], int] = {}
    monkeypatch.setattr(trace, "know", ranks.update)
    wrapping = Wrapping(FaultRates(0.02, 0.02, 0.02, seed=7), str(capture), trace)
    threads = set(threading.enumerate())
    with P4UdpEmulator(read_program(PROGRAM), wrapping=wrapping) as switch:
        results = summed(switch)
        counters = switch.counters()
        port = int(switch.udp_address.rpartition(":")[2])
        with pytest.raises(PortInUseError, match=str(port)):
            P4UdpEmulator(read_program(PROGRAM), udp_port=port)
    assert set(threading.enumerate()) <= threads
    with Emulator() as native:
        (expected, *_) = summed(native)
    for result in results:
        assert result.tobytes() == expected.tobytes()
    assert counters["chunks_completed"] >= COUNT // 64
    assert min(counters[f"fault_{what}"] for what in ("lost", "duplicated", "reordered")) > 0

    captured = [Ether(bytes(packet)) for packet in rdpcap(str(capture))]
    coming = [packet for packet in captured if packet[UDP].dport == port]
    going = [packet for packet in captured if packet[UDP].sport == port]
    assert len(coming) + len(going) == len(captured)
    assert len({packet[UDP].sport for packet in coming}) == RANKS
    assert {packet[IP].dst for packet in captured} == {"127.0.0.1"}
    wire = [line for line in lines if "SwitchML" in line]
    assert len(wire) == len(captured), "the trace tells of every frame of the capture"
    assert any("table SwitchIngress.job_table" in line and "hit" in line for line in lines)
    assert any("dropped" in line for line in lines)
    assert {port for _, port in ranks} == {packet[UDP].sport for packet in coming}
    assert sorted(ranks.values()) == list(range(RANKS))
    of_a_rank: list[str] = []
    chosen = ChosenTrace(of_a_rank.append, Selection(slot=3, rank=1, count=4))
    chosen.know(ranks)
    for line in lines:
        chosen(line)
    assert sum(line.startswith("packet of") for line in of_a_rank) == 4
    (own_port,) = (port for (_, port), rank in ranks.items() if rank == 1)
    assert all(f":{own_port} " in line and "slot 3 " in line for line in of_a_rank if "SwitchML" in line)


@pytest.mark.parametrize("wire", ["int16", "int8"])
def test_narrow_sums_are_those_of_the_native_pipeline(wire: str) -> None:
    with P4UdpEmulator(read_program(PROGRAM)) as switch:
        results = summed(switch, wire)
    with Emulator() as native:
        (expected, *_) = summed(native, wire)
    assert [result.tobytes() for result in results] == [expected.tobytes()] * RANKS


def test_a_program_without_narrow_lanes_refuses_their_wires() -> None:
    program = PROGRAM.with_name("switchml_256.json")
    with (
        P4UdpEmulator(read_program(program)) as switch,
        pytest.raises(UsageError, match="wire int8: this switch knows float32 only"),
    ):
        Worker.join(switch.control_address, job="one", rank=0, world_size=1, wire="int8", transport="udp")


def test_joining_again_after_a_job_has_ended() -> None:
    with P4UdpEmulator(read_program(PROGRAM)) as switch:
        first, second = summed(switch), summed(switch)
    assert [one.tobytes() for one in first] == [one.tobytes() for one in second]


def one_rank_sums(switch: P4UdpEmulator, token: str = "") -> bool:
    with Worker.join(
        switch.control_address, job="alone", rank=0, world_size=1, token=token, transport="udp", window=16
    ) as worker:
        return bool(np.array_equal(worker.allreduce(np.arange(100, dtype=np.int32)).wait(60), np.arange(100)))


def test_p4runtime_is_offered_only_when_asked_for() -> None:
    with P4UdpEmulator(read_program(PROGRAM)) as switch:
        assert switch.p4runtime_address == ""
        # Its controller's own way in can be found by every user of the machine, but has a secret.
        mine = set()
        for link in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the listing's own
                mine.add(os.readlink(f"/proc/self/fd/{link}"))
        (name,) = {
            fields[-1].removeprefix("@")
            for fields in map(str.split, Path("/proc/net/unix").read_text().splitlines())
            if fields[-1].startswith("@switchml-p4runtime-") and f"socket:[{fields[6]}]" in mine
        }
        with pytest.raises(InvalidTokenError):
            P4RuntimeClient(f"unix-abstract:{name}", election_id=2)
        assert one_rank_sums(switch)


@pytest.mark.parametrize("election", [2, (1 << 128) - 2, (1 << 128) - 1])
def test_no_other_client_takes_the_switch_from_its_own_controller(election: int) -> None:
    with P4UdpEmulator(read_program(PROGRAM), p4runtime_port=0) as switch:
        with pytest.raises(NotPrimaryError, match="another controller"):
            P4RuntimeClient(switch.p4runtime_address, election_id=election)
        assert one_rank_sums(switch)


def test_p4runtime_wants_the_token_of_the_workers() -> None:
    with P4UdpEmulator(read_program(PROGRAM), p4runtime_port=0, token="a secret") as switch:
        with pytest.raises(InvalidTokenError, match="authorization: Bearer"):
            P4RuntimeClient(switch.p4runtime_address, election_id=2)
        with pytest.raises(NotPrimaryError):
            P4RuntimeClient(switch.p4runtime_address, election_id=2, token="a secret")
        assert one_rank_sums(switch, "a secret")
