"""TLS for the control service, from PEM files. Off unless asked for: then the token and all else travel in the clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from switchml.errors import UsageError


@dataclass(frozen=True)
class ServerTls:
    """The switch's side.

    Attributes:
        certificate: PEM of its certificate chain.
        key: PEM of its private key.
        client_ca: with one, workers must show a certificate that it signed.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC.

        Raises:
            UsageError: a file cannot be read.
        """
        ca = None if self.client_ca is None else _read(self.client_ca)
        return grpc.ssl_server_credentials(
            [(_read(self.key), _read(self.certificate))],
            root_certificates=ca,
            require_client_auth=ca is not None,
        )


@dataclass(frozen=True)
class ClientTls:
    """A worker's side.

    Attributes:
        ca: whom it trusts; None = the system's authorities.
        certificate: its own, for a switch that asks.
        key: of that certificate.
        server_name: the name in the switch's certificate, where it differs from the host it is reached by.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC.

        Raises:
            UsageError: a file cannot be read, or a certificate comes without its key.
        """
        if (self.certificate is None) != (self.key is None):
            raise UsageError("a TLS client certificate and its key go together: give both files or neither")
        return grpc.ssl_channel_credentials(
            *(None if path is None else _read(path) for path in (self.ca, self.key, self.certificate))
        )


def open_channel(address: str, tls: ClientTls | None, options: Sequence[tuple[str, int]]) -> grpc.Channel:
    """A channel to `address`; in the clear without `tls`."""
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    named = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.secure_channel(address, tls.credentials(), options=[*options, *named])


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the PEM file {path}: {error.strerror}") from error
