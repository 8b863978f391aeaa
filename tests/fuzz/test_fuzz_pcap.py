"""Packet files of any bytes are read, or refused: no traceback, no gigabytes."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from fuzz_budget import guided, inputs

from switchml.packets.pcap import PcapError, PcapWriter, read_pcap


def _changed(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                changed[at : at + 4] = struct.pack(
                    rng.choice("<>") + "I", rng.choice((0, 1, 2**18, 2**18 + 1, 2**31, 2**32 - 1, 65535))
                )
            case 2:
                del changed[at : at + rng.choice((1, 4, 16, 100))]
            case 3:
                changed[at:at] = rng.randbytes(rng.choice((1, 4, 16)))
            case _:
                del changed[at:]
    return bytes(changed)


@guided()
def test_files_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "p.pcap"
    with PcapWriter(path) as writer:
        for number in range(5):
            writer.write(number * 10**9, bytes(range(number * 20)))
    whole = path.read_bytes()
    tracemalloc.start()
    try:
        for rng in inputs(2000, 0.05):
            path.write_bytes(_changed(whole, rng) if rng.random() < 0.98 else rng.randbytes(64))
            try:
                read = list(read_pcap(path))
            except PcapError as error:
                assert str(path) in str(error)  # noqa: PT017 - many are refused
            else:
                assert sum(len(record.data) for record in read) <= path.stat().st_size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A record is at most 256 KiB.
    assert peak < 16 << 20


@pytest.mark.parametrize("length", [2**18 + 1, 2**32 - 1])
def test_a_record_longer_than_any_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "p.pcap"
    with PcapWriter(path) as writer:
        writer.write(0, b"frame")
    with path.open("ab") as file:
        file.write(struct.pack("=IIII", 0, 0, length, length) + bytes(100))
    with pytest.raises(PcapError, match=f"a record of {length} bytes"):
        list(read_pcap(path))
