"""The P4 programs' header file is that of the code."""

from __future__ import annotations

from pathlib import Path

from switchml.protocol import p4_include

INCLUDE = Path(__file__).parents[2] / "p4" / "include" / "switchml_header.p4"


def test_the_committed_include_is_up_to_date() -> None:
    assert INCLUDE.read_text() == p4_include.render(), "run: make docs, then make -C p4"


def test_it_has_the_wire_format() -> None:
    text = p4_include.render()
    for line in (
        "const bit<16> FIRST_PORT_MASK = 0xFFF0;   // UDP ports 0xBEE0-0xBEEF",
        "const bit<16> SWITCHML_BYTES = 10;",
        "const msg_type_t MSG_PROBE = 3;",
        "#elif ELEMENTS == 256\n#define SIZE_CODE 3",
        "#define RESERVED_BITS_SET hdr.switchml.reserved != 0 || hdr.switchml.unused != 0",
        "    bit<14> slot;                 // slot, counted from the start of the job's range",
    ):
        assert f"\n{line}\n" in f"{text}\n", line


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    p4_include.main([str(tmp_path / "header.p4")])
    assert (tmp_path / "header.p4").read_text() == p4_include.render()
