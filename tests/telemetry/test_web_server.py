"""The server of `switchml top --web`: who may look, and what is sent."""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner
from watched_training import LATE, RANKS, SLOTS, SWITCH, watched_training

from switchml.cli import app
from switchml.errors import PortInUseError, UsageError
from switchml.telemetry.web_frame import frame
from switchml.telemetry.web_server import WebServer


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as made:
        yield made


def ask(
    server: WebServer, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def look(server: WebServer) -> http.client.HTTPResponse:
    """A stream of events; the caller closes it."""
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.request("GET", f"/{server.token}/events")
    return connection.getresponse()


def event(stream: http.client.HTTPResponse) -> Any:
    while not (line := stream.readline()).startswith(b"data: "):
        assert line, "the stream has ended"
    return json.loads(line[len(b"data: ") :])


@pytest.mark.parametrize(
    ("path", "kind"), [("", "text/html"), ("watch.js", "text/javascript"), ("watch.css", "text/css")]
)
def test_the_page_is_there_for_who_knows_the_token(server: WebServer, path: str, kind: str) -> None:
    answer, body = ask(server, f"/{server.token}/{path}")
    assert (answer.status, (answer.getheader("Content-Type") or "").partition(";")[0]) == (200, kind)
    assert body == files("switchml.telemetry").joinpath("web", path or "watch.html").read_bytes()
    policy = answer.getheader("Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert answer.getheader("Referrer-Policy") == "no-referrer"


@pytest.mark.parametrize(
    "path", ["/", "/{}", "/wrong/", "/wrong/events", "/{}/../cli.py", "/{}/none", "/{}x/"]
)
def test_nothing_else_is_there(server: WebServer, path: str) -> None:
    answer, body = ask(server, path.format(server.token))
    assert answer.status == 404
    assert server.token.encode() not in body


def test_names_that_lead_here_but_are_not_ours_are_refused(server: WebServer) -> None:
    port = urlsplit(server.url).port
    for name, status in {
        f"evil.example:{port}": 403,
        "evil.example": 403,
        "127.0.0.1.evil.example": 403,
        f"localhost:{port}": 200,
        f"127.0.0.1:{port}": 200,
    }.items():
        assert ask(server, f"/{server.token}/", Host=name)[0].status == status, name
    assert ask(server, f"/{server.token}/events", Origin="http://evil.example")[0].status == 403
    assert server.admits("[::1]:80")
    assert server.admits("[::1]")
    assert not server.admits(None)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(server: WebServer, method: str) -> None:
    assert ask(server, f"/{server.token}/", method)[0].status == 501


def test_who_looks_gets_the_newest_picture_and_then_each_new_one(server: WebServer) -> None:
    server.show({"number": 1})
    server.show({"number": 2})
    stream = look(server)
    assert (stream.status, stream.getheader("Content-Type")) == (200, "text/event-stream")
    assert event(stream) == {"number": 2}
    server.show({"number": 3})
    assert event(stream) == {"number": 3}
    server.close()
    assert stream.read() == b"\n"
    stream.close()
    server.close()


def test_not_more_look_than_there_are_places(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switchml.telemetry.web_server._LOOKERS", 1)
    server.show({})
    first = look(server)
    event(first)
    assert ask(server, f"/{server.token}/events")[0].status == 503
    first.close()


def test_who_breaks_off_leaves_no_traceback_in_the_terminal(
    server: WebServer, capfd: pytest.CaptureFixture[str]
) -> None:
    where = urlsplit(server.url)
    before = set(threading.enumerate())
    with socket.create_connection((where.hostname, where.port or 0)) as looker:
        looker.sendall(b"GET")
        # One that is being started is in the list, and cannot be joined yet.
        (thread,) = _awaited(lambda: {each for each in threading.enumerate() if each.is_alive()} - before)
        looker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
    thread.join()
    assert capfd.readouterr() == ("", "")


def _awaited(look: Callable[[], set[threading.Thread]]) -> set[threading.Thread]:
    while not (found := look()):
        time.sleep(0.01)
    return found


def test_a_port_that_is_taken_and_a_host_that_is_not_ours() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortInUseError, match="--web-port"):
            WebServer(port=other.getsockname()[1])
    with pytest.raises(UsageError, match="cannot listen on"):
        WebServer("192.0.2.1")


def test_the_page_asks_nobody_else() -> None:
    for name in ("watch.html", "watch.css", "watch.js"):
        text = files("switchml.telemetry").joinpath("web", name).read_text()
        assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert "innerHTML" not in text  # names come from workers


def test_a_frame_of_a_switch_with_a_late_rank() -> None:
    made = json.loads(json.dumps(frame(watched_training(late=LATE), 5.0, replayed="run.jsonl", ended=True)))
    assert (made["replayed"], made["ended"]) == ("run.jsonl", True)
    (switch,) = made["switches"]
    assert (switch["address"], switch["silence"]) == (SWITCH, 5.0)
    assert switch["lately"]["packets_received"][-1] == pytest.approx(1e6, rel=0.01)
    assert [trouble["name"] for trouble in switch["troubles"]] == ["stale"]
    assert [end["name"] for end in switch["ended"]] == ["digits-0"]
    (job,) = switch["jobs"]
    assert (job["name"], len(job["missing"]), len(job["members"])) == ("digits-0", SLOTS, RANKS)
    assert job["sums"][-1] == pytest.approx(2e8, rel=0.01)
    assert max(job["members"], key=lambda member: member["late"])["rank"] == LATE
    assert frame(watched_training(trains=False), 0.0)["switches"][0]["jobs"] == []


def test_a_page_is_not_a_picture() -> None:
    for command in (["top", "--web", "--once"], ["replay", "run.jsonl", "--web", "--json"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 1
        assert "--web is a page" in done.output
