"""A gRPC service on an event loop in a thread of its own; what it serves is the subclass's."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import grpc
import grpc.aio

from switchml.closing import Closing
from switchml.control.address import PRIVATE, join_address, listen_error
from switchml.control.tls import ServerTls
from switchml.control.undecodable import RefuseUndecodable
from switchml.errors import SwitchMLError

_log = logging.getLogger(__name__)

_STARTUP = 10.0  # seconds


class ServiceThread(Closing):
    """Serves from construction to `close`. A context manager.

    A subclass sets `name` and implements `serving`, and calls this constructor last. One that sets `private` before can be
    reached at that abstract Unix socket as well, in the clear, or there alone when its host is "".
    """

    name: ClassVar[str]
    """What the service is called in messages."""
    grace: ClassVar[float] = 1.0
    """Seconds that calls get to finish in, unless `close` says otherwise."""
    private = ""

    def __init__(self, host: str, port: int, tls: ServerTls | None, options: dict[str, int]) -> None:
        """Start the thread and wait until the service can be reached.

        Args:
            host: address to listen on.
            port: 0 = a free one.
            tls: certificate and key; None = in the clear.
            options: gRPC's channel arguments.

        Raises:
            PortInUseError: the port is taken.
            UsageError: the host is not an address of this machine, or a file of `tls` can't be read.
        """
        self._credentials = tls.credentials() if tls else None
        self._host = host
        self._requested = port
        # Without the first a second server would take half of the calls.
        self._options = list({"grpc.so_reuseport": 0, **options}.items())
        self._started: Future[int] = Future()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_ignore_idle_wakeups)
        self._stop = asyncio.Event()
        self._stop_grace = 0.0
        self._thread = threading.Thread(target=self._run, name=f"switchml {self.name}", daemon=True)
        self._thread.start()
        try:
            self.port = self._started.result(_STARTUP)
        except BaseException:
            self.close(0)
            raise

    def serving(self, server: grpc.aio.Server) -> AbstractAsyncContextManager[None]:
        """On the event loop: adds the services to `server` on entry, ends what they began on exit."""
        raise NotImplementedError

    def interceptors(self) -> list[grpc.aio.ServerInterceptor[Any, Any]]:
        """What every call passes first, besides what this class puts there."""
        return []

    @property
    def address(self) -> str:
        """`host:port` of the service; "" when it has none."""
        return join_address(self._host, self.port) if self._host else ""

    def close(self, grace: float | None = None) -> None:
        """Ends all streams, lets calls finish for `grace` seconds, then ends the thread. Idempotent."""
        self._stop_grace = self.grace if grace is None else grace
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(self._stop_grace + 5.0)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            if self._started.done():
                _log.exception("the %s service has ended", self.name)
            else:
                self._started.set_exception(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        server = grpc.aio.server(
            options=self._options, interceptors=[*self.interceptors(), RefuseUndecodable()]
        )
        async with self.serving(server):
            port = self._bind(server) if self._host else 0
            if self.private:
                server.add_insecure_port(private_address(self.private))
            await server.start()
            self._started.set_result(port)
            try:
                await self._stop.wait()
            finally:
                await server.stop(self._stop_grace)

    def _bind(self, server: grpc.aio.Server) -> int:
        address = join_address(self._host, self._requested)
        try:
            if self._credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise self._bind_error() from error
        if port == 0:
            raise self._bind_error()
        return port

    def _bind_error(self) -> SwitchMLError:
        """Why nobody can listen there: gRPC does not say."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((self._host, self._requested))
            except OSError as error:
                return listen_error(error, self.name, self._host, self._requested)
        taken = OSError(errno.EADDRINUSE, "it was taken a moment ago")
        return listen_error(taken, self.name, self._host, self._requested)


def private_address(name: str) -> str:
    """What gRPC calls an abstract Unix socket."""
    return f"{PRIVATE}{name}"


def _ignore_idle_wakeups(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Complain of other errors only: gRPC wakes the loops of all servers in a process for one event (1.60, not 1.85)."""
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
