"""What every method of the control port does around its own work: it checks the token, and sends typed errors."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote

import grpc.aio

from switchml.control.controller import Controller
from switchml.control.error_status import TOKEN_KEY, to_status
from switchml.errors import SwitchMLError

Context = grpc.aio.ServicerContext[Any, Any]


class Guarded(Protocol):
    """A service over a controller."""

    controller: Controller


_Service = TypeVar("_Service", bound=Guarded)
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")
_Method = Callable[[_Service, _Request, Context], Coroutine[Any, Any, _Reply]]


def guarded(method: _Method[_Service, _Request, _Reply]) -> _Method[_Service, _Request, _Reply]:
    """Checks the token first, and sends typed errors as `failure` says."""

    @functools.wraps(method)
    async def call(service: _Service, request: _Request, context: Context) -> _Reply:
        try:
            service.controller.authorize(token_of(context))
            return await method(service, request, context)
        except SwitchMLError as error:
            code, details, metadata = to_status(error)
            await context.abort(code, details, metadata)
            raise AssertionError("abort returned") from error

    return call


def token_of(context: Context) -> str:
    """The token that a call shows; "" for none."""
    for key, value in context.invocation_metadata() or ():
        if key == TOKEN_KEY:
            return value.decode() if isinstance(value, bytes) else value
    return ""


def peer_host(peer: str) -> str:
    """The host of gRPC's name for a peer, as `ipv4:10.0.0.2:40112`: its address, IPv4 where it has one, or "" for a local one."""
    kind, _, rest = peer.partition(":")
    host = unquote(rest.rpartition(":")[0]).strip("[]").partition("%")[0]
    if kind == "ipv4":
        return host
    if kind != "ipv6":
        return ""
    address = ipaddress.IPv6Address(host)
    return str(address.ipv4_mapped or address)
