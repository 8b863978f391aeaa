"""TLS for the control service, from PEM files. Off unless asked for: then the token and all else travel in the clear."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from switchml.errors import UsageError

if TYPE_CHECKING:
    import grpc  # loaded late: processes that fork, or only read options, go without


@dataclass(frozen=True)
class TlsFiles:
    """The files that every command and `Worker.join` take, for either side. False when there is none: no TLS.

    Attributes:
        certificate: PEM of our certificate chain; a switch needs one.
        key: PEM of its private key.
        ca: PEM of whom we trust. A switch that has one asks workers for a certificate that it signed.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    VARIABLES: ClassVar = {
        "certificate": "SWITCHML_TLS_CERT",
        "key": "SWITCHML_TLS_KEY",
        "ca": "SWITCHML_TLS_CA",
    }

    @classmethod
    def given(
        cls,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        ca: str | Path | None = None,
    ) -> TlsFiles:
        """What a caller gave: None takes the environment's, "" none."""
        files = {}
        for (name, variable), file in zip(cls.VARIABLES.items(), (certificate, key, ca), strict=True):
            text = os.environ.get(variable, "").strip() if file is None else str(file)
            files[name] = Path(text) if text else None
        return cls(**files)

    def __bool__(self) -> bool:
        return any((self.certificate, self.key, self.ca))

    def server(self) -> ServerTls | None:
        """For one that listens; None = in the clear, only where no file is given.

        Raises:
            UsageError: a file is missing.
        """
        if not self:
            return None
        if self.certificate is None or self.key is None:
            raise UsageError(
                "a switch with TLS needs its certificate and its key: --tls-cert and --tls-key, or SWITCHML_TLS_CERT and "
                "SWITCHML_TLS_KEY"
            )
        return ServerTls(self.certificate, self.key, self.ca)

    def client(self) -> ClientTls | None:
        """For one that connects; None = in the clear, only where no file is given."""
        return ClientTls(self.ca, self.certificate, self.key) if self else None

    def environment(self) -> dict[str, str]:
        """Variables that tell a process of ours the same; "" where there is no file."""
        return {variable: str(getattr(self, name) or "") for name, variable in self.VARIABLES.items()}


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
        import grpc

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
        import grpc

        return grpc.ssl_channel_credentials(
            *(None if path is None else _read(path) for path in (self.ca, self.key, self.certificate))
        )

    def context(self) -> ssl.SSLContext:
        """For Python's sockets, with the same meaning; after `credentials`, which names files that are missing.

        Raises:
            UsageError: a file holds no certificate or key, or they don't belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: what is given is trusted
        try:
            if self.ca is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            raise UsageError(
                f"the TLS files cannot be used ({error}): certificate {self.certificate}, key {self.key}, CA {self.ca}"
            ) from error
        return context


def open_channel(address: str, tls: ClientTls | None, options: Sequence[tuple[str, int]]) -> grpc.Channel:
    """A channel to `address`; in the clear only when `tls` is None."""
    import grpc

    if tls is None:
        return grpc.insecure_channel(address, options=options)
    named = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.secure_channel(address, tls.credentials(), options=[*options, *named])


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the PEM file {path}: {error.strerror}") from error
