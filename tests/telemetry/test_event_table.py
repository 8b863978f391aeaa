"""The table of docs/telemetry.md is that of the code, and the messages are as it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from watched_switch import job, slots, status

from switchml.control.control_messages import EndedJob
from switchml.protocol.format_table import render
from switchml.telemetry.event_table import FIELDS, KINDS, TABLES
from switchml.telemetry.events import (
    changes,
    counters_message,
    jobs_message,
    slots_message,
    switch_message,
)

DOCS = Path(__file__).parents[2] / "docs" / "telemetry.md"
TYPES = {"int": int, "number": (int, float), "string": str, "bool": bool, "list": list, "object": dict}
NAMED = {"counters", "jobs.{}"}
"""Objects with a name for each value, in messages of counters."""


def test_committed_tables_are_up_to_date() -> None:
    text = DOCS.read_text()
    assert text == render(text, TABLES), "run: make docs"
    assert all(f"<!-- table {name} -->" in text for name in TABLES)


def test_no_kind_begins_as_another_does() -> None:
    """Readers subscribe to prefixes."""
    names = [kind.name for kind in KINDS]
    assert [(a, b) for a in names for b in names if a != b and a.startswith(b)] == []


def leaves(value: Any, path: str, kind: str) -> Iterator[tuple[str, Any]]:
    """Paths as the table writes them, with the values there."""
    if path and not (path.endswith("[]") and isinstance(value, dict)):
        yield path, value
    if isinstance(value, dict):
        by_number = path == "jobs" or (kind == "counters" and path in NAMED)
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{'{}' if by_number else name}".lstrip("."), kind)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner, f"{path}.[]", kind)


def messages() -> list[dict[str, Any]]:
    ended = EndedJob("old", 2, 4, "all ranks have left", 3.0)
    full = status(job(), ended=(ended,))
    found = [switch_message(full), counters_message(full), jobs_message(full), slots_message({3: slots()})]
    return [*found, *changes(status(), full)]


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_messages_have_the_fields_of_the_table_and_no_others(kind: str) -> None:
    told = {field.path: field.type for field in FIELDS if field.kind == kind}
    of_all = {"kind"}
    found: set[str] = set()
    for message in messages():
        if message["kind"] != kind:
            continue
        for path, value in leaves({k: v for k, v in message.items() if k not in of_all}, "", kind):
            name, _, null = told[path].partition(" or ")
            assert (null and value is None) or isinstance(
                value, TYPES[name] if name != "list" else (list, tuple)
            )
            found.add(path)
    assert found == told.keys()
