"""pcap files: what we write others read, what others write we read, and files as ports."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap, wrpcap

from switchml.packets.pcap import PcapError, PcapWriter, Record, read_pcap
from switchml.switch_emulator.ports.interface import PortsError
from switchml.switch_emulator.ports.pcap_files import PcapFilePorts

FRAME = bytes(range(60))
SECOND = 1_000_000_000

records = st.lists(
    st.builds(Record, st.integers(0, (1 << 32) * SECOND - 1), st.binary(max_size=200)), max_size=20
)


@given(records)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_back(tmp_path: Path, written: list[Record]) -> None:
    with PcapWriter(tmp_path / "a.pcap") as writer:
        for record in written:
            writer.write(*record)
    assert list(read_pcap(tmp_path / "a.pcap")) == written


def test_scapy_reads_ours_and_we_read_scapys(tmp_path: Path) -> None:
    with PcapWriter(tmp_path / "ours.pcap") as writer:
        writer.write(1_700_000_000_123_456_789, FRAME)
    (packet,) = rdpcap(str(tmp_path / "ours.pcap"))
    assert bytes(packet) == FRAME
    assert float(packet.time) == pytest.approx(1_700_000_000.123456789, abs=1e-6)

    wrpcap(str(tmp_path / "theirs.pcap"), [packet, packet])
    found = list(read_pcap(tmp_path / "theirs.pcap"))
    assert [record.data for record in found] == [FRAME, FRAME]
    assert found[0].time == pytest.approx(1_700_000_000_123_456_000, abs=1000)


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
def test_tcpdump_reads_ours(tmp_path: Path) -> None:
    arp = Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:01", type=0x0806) / bytes.fromhex(
        "00010800060400010200000000010a0000010000000000000a000002"
    )
    with PcapWriter(tmp_path / "ours.pcap") as writer:
        writer.write(SECOND, bytes(arp))
    shown = subprocess.run(
        ["tcpdump", "-n", "-r", tmp_path / "ours.pcap"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert "who-has 10.0.0.2 tell 10.0.0.1" in shown.stdout


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_both_byte_orders_and_units(tmp_path: Path, order: str, magic: int, unit: int) -> None:
    path = tmp_path / "any.pcap"
    path.write_bytes(
        struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
        + struct.pack(order + "IIII", 3, 5, len(FRAME), len(FRAME))
        + FRAME
    )
    assert list(read_pcap(path)) == [Record(3 * SECOND + 5 * unit, FRAME)]


def test_a_record_that_was_cut_off_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "short.pcap"
    with PcapWriter(path) as writer:
        writer.write(1, FRAME)
        writer.write(2, FRAME)
    path.write_bytes(path.read_bytes()[:-1])
    assert [record.time for record in read_pcap(path)] == [1]


def test_what_is_no_pcap_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a capture at all, but long enough")
    with pytest.raises(PcapError, match="text is no classic pcap"):
        list(read_pcap(tmp_path / "text"))
    with pytest.raises(PcapError, match="nowhere"):
        list(read_pcap(tmp_path / "nowhere"))
    (tmp_path / "cooked").write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 113))
    with pytest.raises(PcapError, match="link type 113"):
        list(read_pcap(tmp_path / "cooked"))


def test_files_as_ports_merge_by_time_and_write_what_leaves(tmp_path: Path) -> None:
    for name, times in (("a", (10, 30)), ("b", (20, 40))):
        with PcapWriter(tmp_path / f"{name}_in.pcap") as writer:
            for when in times:
                writer.write(when, name.encode() * 20)
    seen = []
    with PcapFilePorts({1: tmp_path / "a", 2: tmp_path / "b", 3: tmp_path / "c"}) as ports:
        while not ports.exhausted:
            for frame in ports.receive(time.monotonic()):
                seen.append((frame.port, frame.time))
                ports.send(3, frame.data)
                ports.send(9, frame.data)  # nothing is behind that port
    assert seen == [(1, 10), (2, 20), (1, 30), (2, 40)]
    assert [record.time for record in read_pcap(tmp_path / "c_out.pcap")] == [10, 20, 30, 40]
    assert list(read_pcap(tmp_path / "a_out.pcap")) == []


def test_files_as_ports_need_one_to_read(tmp_path: Path) -> None:
    with pytest.raises(PortsError, match=r"a_in\.pcap"):
        PcapFilePorts({1: tmp_path / "a"})


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_full_disk_is_told_by_name() -> None:
    with pytest.raises(PcapError, match="cannot write /dev/full: No space left"):
        PcapWriter("/dev/full")
