"""Renders the tables of the wire format as Markdown, into the places that docs/protocol.md keeps for them.

    python -m switchml.protocol.format_table docs/protocol.md

A place is a pair of comments, `<!-- table NAME -->` and `<!-- end -->`; what stands between them is replaced.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from switchml.protocol import counters, header, messages

_PLACE = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [columns, *rows]]
    lines.insert(1, "|" + " --- |" * len(columns))
    return "\n".join(lines)


def header_table() -> str:
    """One row per field of the header: bytes, bits within them (7 or 15 = the highest), name, type, meaning."""
    rows = []
    for name, field in header.FIELDS.items():
        place = header.PLACES[name]
        last = place.offset + place.width - 1
        span = str(place.offset) if place.width == 1 else f"{place.offset}-{last}"
        if field.bits < 8 * place.width:
            high = place.shift + field.bits - 1
            span += f", bit {high}" if field.bits == 1 else f", bits {high}-{place.shift}"
        kind = f"{'int' if field.signed else 'uint'}{field.bits}"
        rows.append((span, f"`{name}`", kind, field.meaning))
    rows.append((f"{header.HEADER_BYTES}-", "elements", "int32 each", "the payload; as many as `size` says"))
    return markdown(("bytes", "field", "type", "meaning"), rows)


def message_table() -> str:
    """One row per message type."""
    rows = (
        (
            str(kind.code),
            f"`{kind.name}`",
            f"int{kind.lane_bits} each" if kind.lane_bits else "none",
            kind.meaning,
        )
        for kind in messages.MESSAGE_TYPES
    )
    return markdown(("`msg_type`", "name", "payload", "meaning"), rows)


def size_table() -> str:
    """One row per payload size."""
    rows = (
        (
            str(size.code),
            str(size.payload),
            str(size.payload // messages.ELEMENT_BYTES),
            "any" if size.hardware else "software only",
        )
        for size in messages.PAYLOAD_SIZES
    )
    return markdown(("`size`", "payload, bytes", "elements", "switches"), rows)


def _counter_table(table: Iterable[counters.Counter]) -> str:
    return markdown(("counter", "meaning"), ((f"`{counter.name}`", counter.meaning) for counter in table))


TABLES: dict[str, Callable[[], str]] = {
    "header": header_table,
    "messages": message_table,
    "sizes": size_table,
    "switch-counters": lambda: _counter_table(counters.SWITCH_COUNTERS),
    "worker-counters": lambda: _counter_table(counters.WORKER_COUNTERS),
}


def render(text: str, tables: Mapping[str, Callable[[], str]] = TABLES) -> str:
    """`text` with every table between its comments made anew.

    Args:
        text: Markdown with places for tables.
        tables: what makes each, by name.

    Raises:
        ValueError: a place for a table that does not exist, or no place at all.
    """

    def fill(place: re.Match[str]) -> str:
        name = place["name"]
        if name not in tables:
            raise ValueError(f"no table named {name}: there are {', '.join(tables)}")
        return f"{place[1]}{tables[name]()}\n{place[3]}"

    rendered, places = _PLACE.subn(fill, text)
    if not places:
        raise ValueError("no place for a table: <!-- table NAME --> ... <!-- end -->")
    return rendered


def main(arguments: Sequence[str]) -> None:
    """Render the tables into the files that are named."""
    for argument in arguments:
        path = Path(argument)
        path.write_text(render(path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
