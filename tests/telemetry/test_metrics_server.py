"""`switchml metrics` answers Prometheus over HTTP, and ends without leaving anything."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from free_port import free_port
from typer.testing import CliRunner
from watched_training import messages

from switchml.cli import app
from switchml.telemetry.sources import Sources


@pytest.fixture
def listens(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Gives the command a training to listen to, then calls a function in the middle of its loop, and Ctrl-C."""

    def prepare(meanwhile: Callable[[], None]) -> None:
        class Subscription:
            def __init__(self) -> None:
                self.come = [list(messages())]

            def receive(self, seconds: float) -> list[dict[str, Any]]:
                if self.come:
                    return self.come.pop()
                meanwhile()
                raise KeyboardInterrupt

        @contextlib.contextmanager
        def subscribe(self: Sources) -> Iterator[Subscription]:
            yield Subscription()

        monkeypatch.setattr(Sources, "subscribe", subscribe)

    return prepare


def test_prometheus_is_answered_until_it_ends(listens: Callable[..., None]) -> None:
    port, found = free_port(), {}

    def ask() -> None:
        for path in ("metrics", ""):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
                found[path] = (answer.status, answer.headers["Content-Type"], answer.read().decode())

    listens(ask)
    before = set(threading.enumerate())
    done = CliRunner().invoke(app, ["metrics", "--metrics-port", str(port)])
    assert done.exit_code == 0, done.output
    assert f"http://127.0.0.1:{port}/metrics" in done.output
    status, kind, text = found["metrics"]
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert 'switchml_up{switch="127.0.0.1:50551"} 1.0' in text
    assert 'switchml_packets_received_total{switch="127.0.0.1:50551"} 1.9e+07' in text
    assert (
        'switchml_job_elements_added_total{job="digits-0",number="3",switch="127.0.0.1:50551"} 1.52e+10'
        in text
    )
    assert found[""][0] == 200
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
    # One that answers the last request may still be on its way out.
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def test_a_port_that_is_taken(listens: Callable[..., None]) -> None:
    listens(lambda: pytest.fail("it has begun"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = CliRunner().invoke(app, ["metrics", "--metrics-port", str(other.getsockname()[1])])
    assert done.exit_code == 1
    assert "--metrics-port" in done.output
