"""`switchml status --watch`: asks again and again, and shows rates."""

from __future__ import annotations

import io
import json
from typing import Any, ClassVar

import pytest
from rich.console import Console
from rich.live import Live
from typer.testing import CliRunner
from watched_switch import counters, job, member, status

from switchml.cli import app
from switchml.control import client
from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.status import tables

LOOKS = 3


class Client:
    """Of a switch that gets a thousand packets between two looks; the fourth look is Ctrl-C."""

    counted: ClassVar[dict[str, int]] = {}

    def __init__(self, address: str, **_: Any) -> None:
        self.address, self.looks = address, 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def status(self) -> Any:
        if self.looks == LOOKS:
            raise KeyboardInterrupt
        self.looks += 1
        return status(
            job(counters=counters(packets_received=7)),
            **self.counted | {"packets_received": 1000 * self.looks},
        )


@pytest.fixture(autouse=True)
def switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ControlClient", Client)


def test_as_json_it_is_an_object_a_look() -> None:
    done = CliRunner().invoke(app, ["status", "--switch", "here:1", "--watch", "0.1", "--json"])
    assert done.exit_code == 0, done.output
    decoder, text, found = json.JSONDecoder(), done.output.strip(), []
    while text:
        one, end = decoder.raw_decode(text)
        found.append(one["counters"]["packets_received"])
        text = text[end:].strip()
    assert found == [1000, 2000, 3000]


def test_in_a_terminal_of_24_lines_the_rates_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(Live, "update", lambda self, page, **_: seen.append(drawn(page)))
    monkeypatch.setattr(Client, "counted", {counter.name: 1 for counter in SWITCH_COUNTERS[:8]})
    done = CliRunner().invoke(app, ["status", "--switch", "here:1", "--watch", "0.1"])
    assert done.exit_code == 0, done.output
    assert len(seen) == LOOKS
    rates = []
    for lines in seen:
        assert lines[0].startswith("switch here:1   up 99 s   slots 16128 of 16384 free")
        (received,) = (line.split() for line in lines[:24] if line.startswith("packets_received"))
        rates.append(float(received[1]) * {"k": 1000.0}.get(received[2], 1.0))
        assert len(lines) <= 24
    # A thousand packets in a tenth of a second or more.
    assert rates[0] == 0
    assert all(0 < rate <= 10_000 for rate in rates[1:])


def drawn(page: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(page)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(("transport", "way"), [("memory", "memory"), ("udp", "unicast")])
def test_by_what_results_come(transport: str, way: str) -> None:
    members = tuple(member(rank, transport=transport) for rank in range(2))
    pages = [drawn(part) for part in tables("here:1", status(job(members=members)))]
    (line,) = (line for page in pages for line in page if line.startswith("results by"))
    assert line.split() == ["results", "by", way]
