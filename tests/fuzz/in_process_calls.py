"""Calls of a gRPC service within this process: its own handlers and decoding, and no sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import grpc.aio

from switchml.control.undecodable import RefuseUndecodable

# What a service says when it has broken.
BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


class Refusal(Exception):
    """How a service ended a call."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, Any]] = ()) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code, self.details, self.trailing = code, details, dict(trailing)


class CallContext:
    """Of one call. `incoming` is what a stream's client sends."""

    def __init__(
        self, peer: str = "ipv4:127.0.0.1:1", incoming: Sequence[bytes] = (), decode: Any = None
    ) -> None:
        self._peer = peer
        self._incoming = list(reversed(incoming))
        self._decode = decode
        self.sent: list[Any] = []

    def peer(self) -> str:
        """As gRPC names it."""
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """None."""
        return ()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> None:
        """Ends the call."""
        raise Refusal(code, details, trailing)

    async def read(self) -> Any:
        """The next message of the stream."""
        await asyncio.sleep(0)
        return self._decode(self._incoming.pop()) if self._incoming else grpc.aio.EOF  # type: ignore[attr-defined]

    async def write(self, message: Any) -> None:
        """Keeps it."""
        message.SerializeToString()
        self.sent.append(message)


class _Details(NamedTuple):
    method: str
    invocation_metadata: tuple[tuple[str, str], ...] = ()


class InProcess:
    """Stands where a server does when a service is added to it, and makes its calls."""

    def __init__(self) -> None:
        self._generic: list[Any] = []
        self._handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """As grpc.aio.Server."""
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """As grpc.aio.Server, of later versions."""

    async def _handler(self, method: str) -> Any:
        if method not in self._handlers:

            async def find(details: Any) -> Any:
                return next(found for each in self._generic if (found := each.service(details)) is not None)

            intercept: Any = RefuseUndecodable().intercept_service
            self._handlers[method] = await intercept(find, _Details(method))
        return self._handlers[method]

    async def call(self, method: str, data: bytes, context: CallContext) -> Any:
        """The answer of a method to the bytes of a request; of several messages the list. Raises Refusal."""
        handler = await self._handler(method)
        request = handler.request_deserializer(data)
        if handler.response_streaming:
            return [
                handler.response_serializer(each) async for each in handler.unary_stream(request, context)
            ]
        return handler.response_serializer(await handler.unary_unary(request, context))

    async def stream(self, method: str, messages: Sequence[bytes], peer: str) -> CallContext:
        """A whole stream of a client that then closes it. Raises Refusal."""
        handler = await self._handler(method)
        context = CallContext(peer, messages, handler.request_deserializer)
        await handler.stream_stream(None, context)
        return context


class _Collecting(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps what would be a traceback in a switch's log."""
        self.texts.append(self.format(record))


@contextmanager
def no_errors_logged() -> Iterator[Callable[[], None]]:
    """Gives a function that fails once anything has been logged as an error."""
    handler = _Collecting()
    logging.getLogger().addHandler(handler)

    def check() -> None:
        assert not handler.texts, "\n".join(handler.texts[:3])

    try:
        yield check
        check()
    finally:
        logging.getLogger().removeHandler(handler)


class Waiting:
    """Calls that wait for others. One too many is cancelled, as when its client goes away."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, call: Coroutine[Any, Any, None]) -> None:
        """Start a call, and wait a few turns of the loop for it. Raises what it or an earlier one has raised."""
        task = asyncio.ensure_future(call)
        self._tasks.append(task)
        for _ in range(6):
            if task.done():
                break
            await asyncio.sleep(0)
        for each in [each for each in self._tasks if each.done()]:
            self._tasks.remove(each)
            each.result()
        if len(self._tasks) > self._most:
            await self._end(self._tasks.pop(0))

    async def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def close(self) -> None:
        """Cancel all."""
        while self._tasks:
            await self._end(self._tasks.pop())
