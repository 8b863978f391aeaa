"""The P4 programs' header file is that of the code."""

from __future__ import annotations

from pathlib import Path

from switchml.protocol import p4_include

INCLUDE = Path(__file__).parents[2] / "p4" / "include" / "switchml_header.p4"


def test_the_committed_include_is_up_to_date() -> None:
    assert INCLUDE.read_text() == p4_include.render(), "run: make docs, then make -C p4"


def test_it_has_the_wire_format() -> None:
    lines = p4_include.render().splitlines()
    for line in (
        "const bit<16> FIRST_PORT_MASK = 0xFFF0;   // UDP ports 0xBEE0-0xBEEF",
        "const bit<16> SWITCHML_BYTES = 10;",
        "const msg_type_t MSG_PROBE = 3;",
        "    bit<32> tsi;                  // sequence number of the chunk in its stream",
        "    bit<3> size;                  // payload size of the job",
    ):
        assert line in lines
    assert lines[lines.index("#elif ELEMENTS == 256") + 1] == "#define SIZE_CODE 3"


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    p4_include.main([str(tmp_path / "header.p4")])
    assert (tmp_path / "header.p4").read_text() == p4_include.render()
