"""Other traffic: a bulk flow of TCP each way between two namespaces, for as long as it is open."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from switchml.closing import Closing
from switchml.errors import TestbedError
from switchml.testbed.namespace import Namespace

_CHUNK = 1 << 16
_CONTROLS = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_CONNECT_SECONDS = 10.0


class BulkFlow(Closing):
    """Two connections, one each way, that carry as much as the network lets them. A context manager.

    Args:
        near: one end's namespace.
        far: the other's.
        address: of the far end.
        control: TCP's congestion control, as the kernel calls it; "" = the kernel's default.

    Raises:
        TestbedError: the far end cannot be reached, or the kernel has no such congestion control.
    """

    def __init__(self, near: Namespace, far: Namespace, address: str, control: str = "") -> None:
        self._received = [0, 0]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        try:
            with far.call(socket.create_server, (address, 0)) as listener:
                listener.settimeout(_CONNECT_SECONDS)
                for direction in range(2):
                    one = near.call(socket.create_connection, listener.getsockname(), _CONNECT_SECONDS)
                    self._sockets.append(one)
                    other, _ = listener.accept()
                    self._sockets.append(other)
                    ends = (one, other) if direction == 0 else (other, one)
                    self._begin(direction, *ends, control)
        except OSError as error:
            self.close()
            raise TestbedError(f"a flow of TCP to {address}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _begin(self, direction: int, sender: socket.socket, receiver: socket.socket, control: str) -> None:
        sender.settimeout(None)
        receiver.settimeout(None)
        if control:
            try:
                sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
            except OSError as error:
                raise TestbedError(
                    f"TCP's congestion control {control!r}: {error.strerror}; there are {_CONTROLS.read_text().strip()}"
                ) from error
        for body in (lambda: _send(sender), lambda: self._receive(direction, receiver)):
            thread = threading.Thread(target=body, name="switchml-bulk-flow", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _receive(self, direction: int, receiver: socket.socket) -> None:
        buffer = bytearray(4 * _CHUNK)
        with contextlib.suppress(OSError):
            while count := receiver.recv_into(buffer):
                self._received[direction] += count

    @property
    def received(self) -> tuple[int, int]:
        """Bytes that have arrived at the far and at the near end."""
        there, back = self._received
        return there, back

    def close(self) -> None:
        """End both connections. Idempotent."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()
        self._sockets.clear()
        self._threads.clear()


def _send(sender: socket.socket) -> None:
    chunk = bytes(_CHUNK)
    with contextlib.suppress(OSError):
        while True:
            sender.sendall(chunk)
