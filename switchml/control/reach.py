"""Why a gRPC service does not answer, found out with plain sockets: gRPC says "unavailable" for all of it."""

from __future__ import annotations

import contextlib
import socket
import ssl

from switchml.control.address import parse_address
from switchml.control.tls import ClientTls
from switchml.errors import SwitchUnreachableError, TlsError

# What an HTTP/2 client says first (RFC 9113), with empty settings; a server's first frame is its settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_FRAME_HEADER = 9
_SETTINGS = 4
_LONGEST = 2.0  # seconds for each connection: the caller has waited already


def why_unreachable(address: str, tls: ClientTls | None, timeout: float) -> SwitchUnreachableError | None:
    """What keeps us from the service at `address`; None when it does speak gRPC as we do, or nothing tells.

    Args:
        address: host:port.
        tls: as the service was called.
        timeout: seconds for each connection that is made, two at most, and never more than 2.

    Raises:
        UsageError: a file of `tls` holds nothing that can be used.
    """
    host, port = parse_address(address)
    timeout = min(timeout, _LONGEST)
    if (unresolved := unresolvable(host)) is not None:
        return unresolved
    try:
        sock = socket.create_connection((host, port), timeout)
    except ConnectionRefusedError:
        return SwitchUnreachableError(
            f"nothing listens at {address}: start a switch there with `switchml switch`, or set SWITCHML_SWITCH to the control "
            "address of one that runs"
        )
    except PermissionError as error:
        return SwitchUnreachableError(
            f"this machine does not let us connect to {address} ({error.strerror}): a firewall rule here forbids it"
        )
    except TimeoutError:
        return None
    except OSError as error:
        return SwitchUnreachableError(f"no way leads from here to {address}: {error.strerror or error}")
    with sock:
        return _over_plain(sock, address, timeout) if tls is None else _over_tls(sock, address, tls, timeout)


def unresolvable(host: str) -> SwitchUnreachableError | None:
    """The error where `host` is a name that has no address."""
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return SwitchUnreachableError(
            f"the name of the switch, {host!r}, does not resolve ({getattr(error, 'strerror', None) or error}): see whether it "
            "is spelt right and known on this machine, or give the address in numbers"
        )
    return None


def _over_plain(sock: socket.socket, address: str, timeout: float) -> SwitchUnreachableError | None:
    try:
        if _speaks_http2(sock):
            return None
    except TimeoutError:
        return _silent(address)
    if _speaks_tls(address, timeout):
        return TlsError(
            f"the switch at {address} wants TLS: give the certificate of its authority with --tls-ca or SWITCHML_TLS_CA"
        )
    return _foreign(address)


def _over_tls(
    sock: socket.socket, address: str, tls: ClientTls, timeout: float
) -> SwitchUnreachableError | None:
    host, port = parse_address(address)
    context = tls.context()
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(sock, server_hostname=tls.server_name or host) as stream:
            stream.sendall(_PREFACE)
            # Where the server wants a certificate, TLS 1.3 says so only to the first who reads.
            if _is_settings(stream.recv(_FRAME_HEADER)):
                return None
            return _rejected(address, tls, "it closed the connection")
    except TimeoutError:
        return _silent(address)
    except ssl.SSLCertVerificationError as error:
        trusted = "the system's authorities" if tls.ca is None else str(tls.ca)
        return TlsError(
            f"the certificate of the switch at {address} is not to be trusted: {error.verify_message} (checked against "
            f"{trusted}); give its authority with --tls-ca or SWITCHML_TLS_CA, and reach it by a name in its certificate"
        )
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        if "ALERT" not in reason:
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout) as again:
                if _speaks_http2(again):
                    return TlsError(
                        f"the switch at {address} does not speak TLS: start it with --tls-cert and --tls-key. The token would "
                        "travel in the clear without; to have it so, leave out --tls-* and SWITCHML_TLS_*"
                    )
            if not _speaks_tls(address, timeout):
                return _foreign(address)
        return _rejected(address, tls, reason)


def _rejected(address: str, tls: ClientTls, reason: str) -> TlsError:
    shown = "was shown none" if tls.certificate is None else f"does not take {tls.certificate}"
    return TlsError(
        f"the switch at {address} has refused TLS ({reason}): it wants a certificate of its workers' authority, and {shown}; "
        "give one with --tls-cert and --tls-key, or SWITCHML_TLS_CERT and SWITCHML_TLS_KEY"
    )


def _silent(address: str) -> SwitchUnreachableError:
    return SwitchUnreachableError(
        f"what listens at {address} takes connections and says nothing: no switch, or one that is stopped or overloaded"
    )


def _foreign(address: str) -> SwitchUnreachableError:
    return SwitchUnreachableError(
        f"what listens at {address} is no switch: it does not speak gRPC. The control address is meant, port 50551 unless the "
        "switch was told otherwise"
    )


def _speaks_http2(sock: socket.socket) -> bool:
    try:
        sock.sendall(_PREFACE)
        return _is_settings(sock.recv(_FRAME_HEADER, socket.MSG_WAITALL))
    except TimeoutError:
        raise
    except OSError:
        return False


def _is_settings(header: bytes) -> bool:
    return len(header) >= 4 and header[3] == _SETTINGS


def _speaks_tls(address: str, timeout: float) -> bool:
    """Whether a handshake begins, whatever the certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(parse_address(address), timeout) as sock, context.wrap_socket(sock):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
