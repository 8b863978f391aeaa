"""Expected and received packets, and how a difference is shown."""

from __future__ import annotations

import pytest

from switchml.stf.comparison import compare


@pytest.mark.parametrize(
    ("pattern", "exact", "frame"),
    [
        (None, False, "0102"),
        ("0102", False, "0102"),
        ("0102", True, "0102"),
        ("01", False, "0102"),
        ("0*", False, "0102"),
        ("****", True, "0102"),
        ("010", False, "0102"),
        ("", False, "01"),
    ],
)
def test_as_expected(pattern: str | None, exact: bool, frame: str) -> None:
    assert compare(pattern, exact, bytes.fromhex(frame)) is None


@pytest.mark.parametrize(
    ("pattern", "exact", "frame", "bytes_", "reason"),
    [
        ("0103", False, "0102", (1,), "1 byte differs, the first at 1"),
        ("0*13", False, "0102", (1,), "1 byte"),
        ("FF02FF", False, "010203", (0, 2), "2 bytes differ, the first at 0"),
        ("010203", False, "0102", (2,), "2 bytes, 3 expected"),
        ("0102**", False, "0102", (2,), "2 bytes, 3 expected"),
        ("01", True, "0102", (1,), "2 bytes, 1 and no more expected"),
        ("", True, "01", (0,), "1 bytes, 0 and no more expected"),
    ],
)
def test_differences(pattern: str, exact: bool, frame: str, bytes_: tuple[int, ...], reason: str) -> None:
    found = compare(pattern, exact, bytes.fromhex(frame))
    assert found is not None
    assert found.bytes == bytes_
    assert reason in found.reason


def test_rows_mark_the_differing_bytes_and_leave_out_the_rest() -> None:
    expected = bytearray(range(64))
    frame = bytes(expected)
    expected[17] = expected[19] = 0xEE
    found = compare(bytes(expected).hex().upper(), True, frame)
    assert found is not None
    rows = found.rows()
    assert len(rows) == 3
    assert rows[0].startswith("  16  expected  10 EE 12 EE 14")
    assert rows[1].startswith("  16  got       10 11 12 13 14")
    column = rows[0].index("EE")
    assert rows[2][column : column + 2] == "^^"
    assert rows[2].count("^^") == 2
