"""Options of a process group: `init_process_group("switchml", pg_options=Options(window=512))`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta

from switchml.control.target import TRANSPORTS
from switchml.control.tls import TlsFiles
from switchml.errors import UsageError
from switchml.protocol.messages import FLOAT32, WIRES
from switchml.variables import heed_environment, seconds_to_recover, take_configuration


def _text(variable: str, default: str = "") -> str:
    take_configuration()
    return os.environ.get(variable, "").strip() or default


def _whole_number(variable: str) -> int:
    text = _text(variable, "0")
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{variable}={text!r} is not a whole number; unset it or set one") from None


@dataclass
class Options:
    """How the ranks of one process group reach and use their switch.

    All ranks of the group must give the same `payload`, `window` and `wire`. `switch` and `token` count on the group's
    rank 0, which tells the others.

    Attributes:
        switch: "host:port" of the switch's control service, or of several, as in `Worker.join`; "" means that the first rank of
            each host starts an embedded one. Default: `SWITCHML_SWITCH`.
        token: the switch's join token. Default: `SWITCHML_TOKEN`.
        tls_cert: PEM file of this rank's certificate; the embedded switch shows it too. Default: `SWITCHML_TLS_CERT`.
        tls_key: PEM file of its key. Default: `SWITCHML_TLS_KEY`.
        tls_ca: PEM file of the authority that signs certificates. Default: `SWITCHML_TLS_CA`.
        transport: "auto", "udp", "shm" or "memory": see `Worker.join`. Default: `SWITCHML_TRANSPORT`, else "auto".
        payload: bytes of elements in a packet, 0 = the switch's default. Default: `SWITCHML_PAYLOAD`.
        window: slots, a power of two, 0 = the switch's default. Default: `SWITCHML_WINDOW`.
        wire: what sums of float32 (and of float16 and bfloat16, which go through it) travel as: "float32", "int16" or "int8".
            Default: `SWITCHML_WIRE`, else "float32".
        recover: seconds for which a job tries to go on when its switch is gone: see `Worker.join`. An embedded switch is started
            anew. Default: `SWITCHML_RECOVER`, else 0, which ends the job at once.
        multicast: take results by IP multicast where switch and host can.
        timeout: deadline of a collective; None = the timeout that torch hands over.

    Raises:
        UsageError: a value that cannot be meant.
    """

    switch: str = field(default_factory=lambda: _text("SWITCHML_SWITCH"))
    token: str = field(default_factory=lambda: _text("SWITCHML_TOKEN"), repr=False)
    tls_cert: str = field(default_factory=lambda: _text("SWITCHML_TLS_CERT"))
    tls_key: str = field(default_factory=lambda: _text("SWITCHML_TLS_KEY"))
    tls_ca: str = field(default_factory=lambda: _text("SWITCHML_TLS_CA"))
    transport: str = field(default_factory=lambda: _text("SWITCHML_TRANSPORT", "auto"))
    payload: int = field(default_factory=lambda: _whole_number("SWITCHML_PAYLOAD"))
    window: int = field(default_factory=lambda: _whole_number("SWITCHML_WINDOW"))
    wire: str = field(default_factory=lambda: _text("SWITCHML_WIRE", FLOAT32))
    recover: float = field(default_factory=seconds_to_recover)
    multicast: bool = True
    timeout: timedelta | None = None

    def __post_init__(self) -> None:
        heed_environment()
        if self.transport not in TRANSPORTS:
            raise UsageError(f"transport {self.transport!r}: one of {', '.join(TRANSPORTS)} is meant")
        if self.wire not in WIRES:
            raise UsageError(f"wire {self.wire!r}: one of {', '.join(WIRES)} is meant")
        if self.payload < 0 or self.window < 0:
            raise UsageError(f"payload {self.payload} and window {self.window} must not be negative")
        if not self.recover >= 0:
            raise UsageError(f"recover {self.recover} must be a number of seconds, or 0")
        if self.timeout is not None and self.timeout <= timedelta(0):
            raise UsageError(f"timeout {self.timeout} must be positive")

    @property
    def tls(self) -> TlsFiles:
        """The three files together."""
        return TlsFiles.given(self.tls_cert, self.tls_key, self.tls_ca)

    @property
    def _timeout(self) -> timedelta | None:
        """The name under which `init_device_mesh` looks for the timeout."""
        return self.timeout

    @_timeout.setter
    def _timeout(self, value: timedelta | None) -> None:
        self.timeout = value
