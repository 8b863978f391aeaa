"""docs/packets.md: its examples with scapy run, one after the other, and its commands do what it says."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from made_packets import MadePackets
from typer.testing import CliRunner

from switchml.cli import app
from switchml.packets.decoding import read_capture
from switchml.packets.ethernet import UdpHeaders
from switchml.protocol.header import Header, build_header
from switchml.protocol.messages import SUM, UDP_PORT_FIRST

PAGE = (Path(__file__).parents[2] / "docs" / "packets.md").read_text()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the captures that the page names."""
    monkeypatch.chdir(tmp_path)
    made = MadePackets()
    chunk = Header(SUM, tsi=12, slot=12)
    ends = (b"\2" * 6, b"\4" * 6, socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.254"))
    payload = build_header(chunk) + bytes(128)
    for _ in range(2):
        made.frame(UdpHeaders(*ends, 50000, UDP_PORT_FIRST), payload)
    for name in ("wire", "wire.JOB.rank0", "wire.JOB.rank1"):
        made.write(tmp_path / f"{name}.pcap")
    return tmp_path


def test_the_three_examples_with_scapy(folder: Path) -> None:
    pytest.importorskip("scapy", reason="scapy is in the extra `scapy`")
    names: dict[str, object] = {}
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(example, names)
    assert names["chunks"] == [12, 12]
    data = names["data"]
    assert isinstance(data, bytes)
    assert data[28:38] == build_header(Header(SUM, job_number=1, tsi=8, slot=8))
    assert [packet.header.tsi for packet in read_capture(folder / "changed.pcap").packets] == [12, 12, 4]


def test_the_commands_of_decode() -> None:
    commands = [line.split()[2:] for line in PAGE.splitlines() if line.startswith("    switchml decode ")]
    assert len(commands) == 5
    for words in commands:
        done = CliRunner().invoke(app, ["decode", *words[: words.index(">") if ">" in words else None]])
        assert (done.exit_code, bool(done.output)) == (0, True), words
