"""The tables in docs/protocol.md are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from switchml.protocol import format_table, header

DOCS = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_committed_tables_are_up_to_date() -> None:
    text = DOCS.read_text()
    assert text == format_table.render(text), "run: make docs"


@pytest.mark.parametrize("name", sorted(format_table.TABLES))
def test_docs_hold_every_table(name: str) -> None:
    assert f"<!-- table {name} -->" in DOCS.read_text()


def test_header_rows_cover_every_bit_once() -> None:
    """Read back from the Markdown: the rows tile the header."""
    bits: list[int] = []
    for row in format_table.header_table().splitlines()[2:-1]:
        span = row.split("|")[1].strip()
        bytes_, _, within = span.partition(", ")
        first, _, last = bytes_.partition("-")
        width = int(last or first) - int(first) + 1
        high, _, low = within.removeprefix("bits ").removeprefix("bit ").partition("-")
        top, bottom = (int(high), int(low or high)) if within else (8 * width - 1, 0)
        bits += [8 * int(first) + 8 * width - 1 - bit for bit in range(top, bottom - 1, -1)]
    assert bits == list(range(8 * header.HEADER_BYTES))


def test_only_the_places_change() -> None:
    text = "before\n<!-- table sizes -->\nold\n<!-- end -->\nafter <!-- end -->\n"
    rendered = format_table.render(text)
    assert rendered.startswith("before\n<!-- table sizes -->\n| `size` |")
    assert rendered.endswith("|\n<!-- end -->\nafter <!-- end -->\n")
    assert "old" not in rendered
    assert format_table.render(rendered) == rendered


@pytest.mark.parametrize("text", ["no place", "<!-- table nonsense -->\n<!-- end -->"])
def test_a_missing_or_unknown_place_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="table"):
        format_table.render(text)


def test_the_command_rewrites_the_file(tmp_path: Path) -> None:
    path = tmp_path / "protocol.md"
    path.write_text("<!-- table header -->\n<!-- end -->\n")
    format_table.main([str(path)])
    assert "`pool" not in path.read_text()
    assert "`tsi`" in path.read_text()
