"""The Wireshark dissector: it is that of the code, and tshark with it says what `switchml decode` says."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from made_packets import MadePackets

from switchml.packets import dissector
from switchml.packets.decoding import read_capture
from switchml.protocol.header import FIELDS, Header
from switchml.protocol.messages import LANE_BITS, MESSAGE_TYPES

SCRIPT = Path(__file__).parents[2] / "scripts" / "wireshark" / "switchml.lua"
ELEMENTS = {8: "lane8", 16: "lane16", 32: "element"}


def test_the_committed_script_is_up_to_date() -> None:
    assert SCRIPT.read_text() == dissector.render(), "run: make docs"


def test_it_names_every_field_and_message(tmp_path: Path) -> None:
    dissector.main([str(tmp_path / "a.lua")])
    text = (tmp_path / "a.lua").read_text()
    assert all(f'"switchml.{name}"' in text for name in FIELDS)
    assert all(f'[{kind.code}] = "{kind.name}"' in text for kind in MESSAGE_TYPES)


def test_tshark_says_what_decode_says(tmp_path: Path) -> None:
    """Packets of all types with any header, from ranks and to them."""
    if shutil.which("tshark") is None:
        pytest.skip(
            "tshark is not installed: with its libraries 120 MB and half a minute, too much of CI for one test"
        )
    made, rng = MadePackets(), random.Random(5)
    for kind in MESSAGE_TYPES:
        for send in (made.up, made.down):
            values = {name: rng.randint(*field.limits()) for name, field in FIELDS.items()}
            bits = LANE_BITS[kind.code]
            high = 1 << (bits or 8) - 1
            elements = [rng.randint(-high, high - 1) for _ in range(32 if bits else 0)]
            send(rng.randrange(300), Header(**values | {"msg_type": kind.code}), elements)
    path = made.write(tmp_path / "a.pcap")
    names = ["rank", "to_switch", "elements", *FIELDS, *ELEMENTS.values()]
    asked = [word for name in names for word in ("-e", f"switchml.{name}")]
    done = subprocess.run(
        ["tshark", "-X", f"lua_script:{SCRIPT}", "-r", path, "-T", "fields", *asked],
        capture_output=True, text=True, timeout=240, check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    packets = read_capture(path).packets
    rows = [dict(zip(names, line.split("\t"), strict=True)) for line in done.stdout.splitlines()]
    assert len(rows) == len(packets) == 2 * len(MESSAGE_TYPES)
    for row, packet in zip(rows, packets, strict=True):
        told = {name: int(row[name]) for name in FIELDS}
        assert told == packet.header._asdict()
        assert (int(row["rank"]), int(row["to_switch"])) == (packet.rank, packet.to_switch)
        elements = row[ELEMENTS[LANE_BITS[packet.header.msg_type] or 32]]
        assert [int(value) for value in elements.split(",") if value] == packet.values
        assert int(row["elements"]) == packet.elements
