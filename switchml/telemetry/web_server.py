"""Serves the page of `switchml top --web`, and sends it what is to be drawn by Server-Sent Events.

Who has the token may look, and nobody can change anything: there is nothing but GET. The token stands in the path, and a page of
another site that finds the port by a name of its own (DNS rebinding) is refused for the name.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import sys
import threading
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from typing_extensions import override

from switchml.closing import Closing
from switchml.control.address import join_address, listen_error

_FILES = {
    "": ("watch.html", "text/html; charset=utf-8"),
    "watch.css": ("watch.css", "text/css; charset=utf-8"),
    "watch.js": ("watch.js", "text/javascript; charset=utf-8"),
}
_EVENTS = "events"
_HEADERS = {
    # Nothing comes from elsewhere, nothing runs that is not ours, nobody shows the page inside his own.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_LOOKERS = 16
_PATIENCE = 5.0  # seconds without anything new, after which a looker is asked whether he is there
_SLOW = 20.0  # seconds in which one has to ask, or take what is sent


class WebServer(Closing):
    """Serves until `close`.

    Args:
        host: address to listen on.
        port: 0 = a free one.

    Attributes:
        url: of the page, with the token.

    Raises:
        PortInUseError: the port is taken.
        UsageError: the host is none of this machine.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.token = host, secrets.token_urlsafe(18)
        self._changed = threading.Condition()
        self._number, self._event, self._closed, self._looking = 0, b"", False, 0
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            raise listen_error(error, "page", host, port, "--web-port") from error
        self._server.pages = self
        shown = "127.0.0.1" if host in ("0.0.0.0", "") else host
        self.url = f"http://{join_address(shown, self._server.server_port)}/{self.token}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="switchml-page", daemon=True
        )
        self._thread.start()

    def show(self, frame: Mapping[str, Any]) -> None:
        """Send it to all who look; one that is slow gets the newest, and not those between."""
        event = f"data: {json.dumps(frame, separators=(',', ':'))}\n\n".encode()
        with self._changed:
            self._number += 1
            self._event = event
            self._changed.notify_all()

    def next_event(self, after: int) -> tuple[int, bytes] | None:
        """The newest event after number `after`, with its own; a comment where there is none for a while; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > after or self._closed, _PATIENCE)
            if self._closed:
                return None
            return (self._number, self._event) if self._number > after else (after, b": still here\n\n")

    def enter(self) -> bool:
        """One more who looks; False if there are too many."""
        with self._changed:
            if self._looking >= _LOOKERS:
                return False
            self._looking += 1
            return True

    def leave(self) -> None:
        """One less."""
        with self._changed:
            self._looking -= 1

    def admits(self, name: str | None) -> bool:
        """Whether that is a name of this server, as a browser gives it in `Host`: an address, or one that we were given.

        A name of somebody else's that leads here is not: his page would speak for the user.
        """
        host = (name or "").rpartition(":")[0] if not (name or "").endswith("]") else name or ""
        host = (host or name or "").strip("[]").lower()
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host in ("localhost", self.host.lower())
        return True

    @override
    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    pages: WebServer
    daemon_threads = True
    block_on_close = False

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who has gone, or takes nothing, is no error to be shown in the terminal."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@cache
def _file(name: str) -> bytes:
    return files("switchml.telemetry").joinpath("web", name).read_bytes()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SLOW
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "switchml", ""

    def do_GET(self) -> None:
        pages = self.server.pages
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if not pages.admits(host) or (origin is not None and origin != f"http://{host}"):
            self._answer(
                HTTPStatus.FORBIDDEN, b"this name is not the page's: open the address that was printed\n"
            )
            return
        _, _, rest = self.path.partition("/")
        token, slash, name = rest.partition("/")
        known = hmac.compare_digest(token.encode(), pages.token.encode())
        if not known or not slash or name not in (*_FILES, _EVENTS):
            self._answer(
                HTTPStatus.NOT_FOUND, b"nothing is here: open the address that was printed, token included\n"
            )
        elif name == _EVENTS:
            self._send_events(pages)
        else:
            file, kind = _FILES[name]
            self._answer(HTTPStatus.OK, _file(file), kind)

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self._head(status, kind, {"Content-Length": str(len(body))})
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, more: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **_HEADERS, **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_events(self, pages: WebServer) -> None:
        self.close_connection = True
        if not pages.enter():
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{_LOOKERS} look already\n".encode())
            return
        try:
            self._head(HTTPStatus.OK, "text/event-stream", {"Connection": "close"})
            number = 0
            while (found := pages.next_event(number)) is not None:
                number, event = found
                self.wfile.write(event)
        finally:
            pages.leave()

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: lines of the log would have the token."""
