"""The P4Runtime service over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio

from switchml.control.bearer import RequireToken
from switchml.control.service_thread import ServiceThread
from switchml.control.tls import ServerTls
from switchml.p4runtime.stubs import p4runtime_pb2_grpc
from switchml.switch_emulator.p4runtime.service import P4RuntimeService
from switchml.switch_emulator.runtime import Device

_LARGEST_MESSAGE = 256 << 20  # bytes; programs are large
_OPTIONS = {
    "grpc.max_receive_message_length": _LARGEST_MESSAGE,
    "grpc.max_send_message_length": _LARGEST_MESSAGE,
    # A controller whose host has died: no packet ever says so, a ping without answer does.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 10_000,
}


class P4RuntimeServer(ServiceThread):
    """A running P4Runtime service; made by `serve`. A context manager: `stop` on exit."""

    name = "P4Runtime"
    grace = 0.2

    def __init__(
        self, device: Device[Any], host: str, port: int, tls: ServerTls | None, token: str, private: str
    ) -> None:
        self._device = device
        self._token = token
        self.private = private
        super().__init__(host, port, tls, _OPTIONS)

    def interceptors(self) -> list[grpc.aio.ServerInterceptor[Any, Any]]:
        """See `ServiceThread`."""
        return [RequireToken(self._token)] if self._token else []

    @asynccontextmanager
    async def serving(self, server: grpc.aio.Server) -> AsyncIterator[None]:
        """See `ServiceThread`."""
        service: Any = P4RuntimeService(self._device)
        p4runtime_pb2_grpc.add_P4RuntimeServicer_to_server(service, cast(Any, server))
        try:
            yield
        finally:
            service.close()


def serve(
    device: Device[Any],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    tls: ServerTls | None = None,
    token: str = "",
    private: str = "",
) -> P4RuntimeServer:
    """Start the P4Runtime service of `device`.

    Args:
        device: what it serves.
        host: address to listen on; "" = none, for one that has `private`.
        port: 0 = a free one.
        tls: the switch's certificate; None = in the clear.
        token: what clients must show as `authorization: Bearer TOKEN`; "" lets everybody in.
        private: name of an abstract Unix socket to listen on as well, in the clear.

    Raises:
        PortInUseError: the port is taken.
        UsageError: the host is not an address of this machine, or a file of `tls` can't be read.
    """
    return P4RuntimeServer(device, host, port, tls, token, private)
