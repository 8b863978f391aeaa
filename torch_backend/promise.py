"""A torch future that can fail without a crash."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from torch.futures import Future

Value = TypeVar("Value")


class Promise(Generic[Value]):
    """`future` gets the tensors given to `keep`, or raises what is given to `fail`.

    Python's `Future.set_exception` would store the exception as a value, which DDP's reducer reads as a tensor: so it is
    raised inside `then`.
    """

    def __init__(self) -> None:
        self._raw: Future[Value | None] = Future()
        self._value: Value | None = None
        self._error: BaseException | None = None
        self.future: Future[Value] = self._raw.then(self._unwrap)

    def keep(self, value: Value) -> None:
        """Of tensors on a GPU the future is ready when the current stream is."""
        self._value = value
        self._raw.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Let whoever waits for the future get `error` raised."""
        self._error = error
        self._raw.set_result(None)

    def _unwrap(self, _: Future[Value | None]) -> Value:
        if self._error is not None:
            raise self._error
        return cast(Value, self._value)
