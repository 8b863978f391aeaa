"""How an error crosses gRPC: a status code, the error's name in the trailing metadata, its sentence as the status' details."""

from __future__ import annotations

import grpc

from switchml import errors
from switchml.errors import SwitchMLError

ERROR_KEY = "switchml-error"
TOKEN_KEY = "switchml-token-bin"  # any characters
# gRPC refuses metadata above 8 KiB, and writes what is not ASCII as three bytes for one.
_LONGEST = 2000

_CODES: dict[type[SwitchMLError], grpc.StatusCode] = {
    errors.UsageError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WorldSizeMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LayoutMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DuplicateRankError: grpc.StatusCode.ALREADY_EXISTS,
    errors.InvalidTokenError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PoolExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.JoinTimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.LeftBehindError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.JoinError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SwitchGoneError: grpc.StatusCode.ABORTED,
    errors.JobAbortedError: grpc.StatusCode.ABORTED,
    errors.WorkerClosedError: grpc.StatusCode.CANCELLED,
    errors.SwitchMLError: grpc.StatusCode.UNKNOWN,
}
_TYPES = {error.__name__: error for error in _CODES}


def to_status(error: SwitchMLError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Code, details and trailing metadata that carry `error`; a type not in the table travels as the nearest it derives from."""
    kind = next(kind for kind in type(error).__mro__ if kind in _CODES)
    return _CODES[kind], str(error)[:_LONGEST], ((ERROR_KEY, kind.__name__),)


def from_status(error: grpc.RpcError) -> SwitchMLError | None:
    """The error that a switch sent; None when the failure is not one of its refusals."""
    if not isinstance(error, grpc.Call):
        return None
    named = {str(key): value for key, value in error.trailing_metadata() or ()}.get(ERROR_KEY)
    kind = _TYPES.get(named.decode() if isinstance(named, bytes) else named or "")
    return kind(error.details()) if kind else None
