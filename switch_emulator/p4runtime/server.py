"""The P4Runtime service over gRPC: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from concurrent.futures import Future
from typing import Any, cast

import grpc
import grpc.aio

from switchml.control.address import join_address
from switchml.control.tls import ServerTls
from switchml.errors import PortInUseError, SwitchMLError, UsageError
from switchml.p4runtime_stubs import p4runtime_pb2_grpc
from switchml.switch_emulator.p4runtime.service import P4RuntimeService
from switchml.switch_emulator.runtime import Device

_log = logging.getLogger(__name__)

DEFAULT_P4RUNTIME_PORT = 9559  # IANA
_STARTUP = 10.0  # seconds
_LARGEST_MESSAGE = 256 << 20  # bytes; programs are large
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # or a second server would take half of the first one's calls
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    # A controller whose host has died: no packet ever says so, a ping without answer does.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class P4RuntimeServer:
    """A running P4Runtime service; made by `serve`. A context manager: `stop` on exit."""

    def __init__(self, device: Device, host: str, port: int, tls: ServerTls | None) -> None:
        self._credentials = tls.credentials() if tls else None
        self._device = device
        self._host = host
        self._requested = port
        self._started: Future[int] = Future()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_ignore_idle_wakeups)
        self._stop = asyncio.Event()
        self._grace = 0.0
        self._thread = threading.Thread(target=self._run, name="switchml-p4runtime", daemon=True)
        self._thread.start()
        try:
            self.port = self._started.result(_STARTUP)
        except BaseException:
            self.stop(0)
            raise

    def __enter__(self) -> P4RuntimeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """`host:port` of the service."""
        return join_address(self._host, self.port)

    def stop(self, grace: float = 0.2) -> None:
        """Ends all streams, lets calls finish for `grace` seconds, then ends the thread. Idempotent."""
        self._grace = grace
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(grace + 5.0)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._started.done():
                _log.exception("the P4Runtime service has ended")
            else:
                self._started.set_exception(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        service = P4RuntimeService(self._device)
        try:
            server = grpc.aio.server(options=_OPTIONS)
            p4runtime_pb2_grpc.add_P4RuntimeServicer_to_server(service, cast(Any, server))
            port = self._bind(server)
            await server.start()
            self._started.set_result(port)
            try:
                await self._stop.wait()
            finally:
                await server.stop(self._grace)
        finally:
            service.close()

    def _bind(self, server: grpc.aio.Server) -> int:
        address = join_address(self._host, self._requested)
        try:
            if self._credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise _bind_error(self._host, self._requested) from error
        if port == 0:
            raise _bind_error(self._host, self._requested)
        return port


def serve(
    device: Device, host: str = "127.0.0.1", port: int = 0, *, tls: ServerTls | None = None
) -> P4RuntimeServer:
    """Starts the P4Runtime service of `device` on `host:port` (port 0: a free one), in the clear without `tls`.

    Raises PortInUseError when the port is taken, UsageError when the host is not an address of this machine or a file of
    `tls` can't be read.
    """
    return P4RuntimeServer(device, host, port, tls)


def _ignore_idle_wakeups(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """gRPC wakes the loops of all servers in a process for one event; those that find nothing complain (1.60, not 1.85)."""
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


def _bind_error(host: str, port: int) -> SwitchMLError:
    """Why nobody can listen there: gRPC does not say."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            return UsageError(
                f"cannot listen on {host!r}: {error.strerror}; give an address of this machine, or 0.0.0.0"
            )
    return PortInUseError(
        f"the P4Runtime port {join_address(host, port)} is taken; "
        "stop what listens there, or choose another port (0 = a free one)"
    )
