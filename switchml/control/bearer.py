"""The join token on services that are not ours to define (P4Runtime): `authorization: Bearer TOKEN` in the metadata."""

from __future__ import annotations

import hmac
import string
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio

KEY = "authorization"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata that shows a token, none for "". What is not printable ASCII is written as in a URL."""
    return ((KEY, f"Bearer {quote(token, safe=string.punctuation)}"),) if token else ()


class RequireToken(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs alone
    """Ends calls that do not show `token` with UNAUTHENTICATED."""

    def __init__(self, token: str) -> None:
        self._wanted = bearer(token)[0][1].encode()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """See gRPC."""
        handler = await continuation(handler_call_details)
        metadata = {str(key): value for key, value in handler_call_details.invocation_metadata or ()}
        shown = metadata.get(KEY, "")
        shown = shown if isinstance(shown, bytes) else shown.encode()
        if handler is None or hmac.compare_digest(shown, self._wanted):
            return handler
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            _refuse_stream if handler.response_streaming else _refuse,
            # What strangers send is not even decoded.
            None,
            handler.response_serializer,
        )


_CODE = grpc.StatusCode.UNAUTHENTICATED
_WHY = "this switch needs its join token, as metadata `authorization: Bearer TOKEN`; set SWITCHML_TOKEN to it"


async def _refuse(request: Any, context: Any) -> None:
    await context.abort(_CODE, _WHY)


async def _refuse_stream(request: Any, context: Any) -> Any:
    await context.abort(_CODE, _WHY)
    yield  # makes it one that answers with a stream
