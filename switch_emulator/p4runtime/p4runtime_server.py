"""The P4Runtime service over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio

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

    def __init__(self, device: Device, host: str, port: int, tls: ServerTls | None) -> None:
        self._device = device
        super().__init__(host, port, tls, _OPTIONS)

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
    device: Device, host: str = "127.0.0.1", port: int = 0, *, tls: ServerTls | None = None
) -> P4RuntimeServer:
    """Starts the P4Runtime service of `device` on `host:port` (port 0: a free one), in the clear without `tls`.

    Raises PortInUseError when the port is taken, UsageError when the host is not an address of this machine or a file of
    `tls` can't be read.
    """
    return P4RuntimeServer(device, host, port, tls)
