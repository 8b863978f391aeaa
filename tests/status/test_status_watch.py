"""`switchml status --watch`: asks again and again, and shows rates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner
from watched_switch import counters, job, status

from switchml.cli import app
from switchml.control import client

LOOKS = 3


class Client:
    """Of a switch that gets a thousand packets between two looks; the fourth look is Ctrl-C."""

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
        return status(job(counters=counters(packets_received=7)), packets_received=1000 * self.looks)


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
