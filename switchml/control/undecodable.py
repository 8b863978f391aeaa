"""What a service answers to bytes that are no message of its: INVALID_ARGUMENT, where gRPC says UNKNOWN and logs a traceback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError


class RefuseUndecodable(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs alone
    """Refuses what cannot be decoded. A stream's method sees the DecodeError itself, where it reads."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """See gRPC."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler

        def decode(data: bytes) -> Any:
            try:
                return handler.request_deserializer(data)
            except DecodeError as error:
                return error

        if handler.response_streaming:

            async def answer_many(request: Any, context: Any) -> Any:
                await _refuse(request, context)
                async for response in handler.unary_stream(request, context):
                    yield response

            return grpc.unary_stream_rpc_method_handler(answer_many, decode, handler.response_serializer)

        async def answer(request: Any, context: Any) -> Any:
            await _refuse(request, context)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, decode, handler.response_serializer)


async def _refuse(request: Any, context: Any) -> None:
    if isinstance(request, DecodeError):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"this is no message of this method: {request}")
