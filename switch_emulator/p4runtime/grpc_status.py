"""How refusals cross gRPC: a status, and for batches one `p4.v1.Error` a request in its details (specification, section 10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.p4runtime.stubs import code_pb2, status_pb2
from switchml.p4runtime.stubs import p4runtime_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]
DETAILS_KEY = "grpc-status-details-bin"
# Clients refuse metadata above 8 KiB unless told otherwise, and it grows by a third on its way.
_LARGEST_DETAILS = 5500  # bytes
_LARGEST_SENTENCE = 2000  # characters of a refusal
_FRAME = 48  # bytes of a p4.v1.Error in google.protobuf.Any, without its sentence


async def abort(context: Context, error: RuntimeRequestError) -> NoReturn:
    """End a call with a refusal."""
    await context.abort(grpc.StatusCode[error.code], _short(error, _LARGEST_SENTENCE))
    raise AssertionError("abort returned")


async def abort_batch(
    context: Context, what: str, outcomes: Sequence[RuntimeRequestError | None]
) -> NoReturn:
    """Ends a call of which some requests failed; `outcomes` has one a request, None = it was carried out."""
    failed = [(number, outcome) for number, outcome in enumerate(outcomes) if outcome is not None]
    first, outcome = failed[0]
    message = f"{len(failed)} of {len(outcomes)} {what} failed; number {first}: {outcome.code}: {_short(outcome, 200)}"
    details = batch_details(message, outcomes)
    await context.abort(grpc.StatusCode.UNKNOWN, message, ((DETAILS_KEY, details),))
    raise AssertionError("abort returned")


def batch_details(message: str, outcomes: Sequence[RuntimeRequestError | None]) -> bytes:
    """A serialised google.rpc.Status. Sentences are left out, last first, when it would be more than clients take."""
    errors = [
        pb.Error(canonical_code=code_pb2.OK)
        if outcome is None
        else pb.Error(canonical_code=code_number(outcome.code), message=str(outcome))
        for outcome in outcomes
    ]
    room = _LARGEST_DETAILS - 2 * len(message)  # it travels beside the details as well
    excess = sum(len(error.message) for error in errors) + _FRAME * len(errors) - room
    for error in reversed(errors):
        if excess <= 0:
            break
        excess -= len(error.message)
        error.ClearField("message")
    status = status_pb2.Status(code=code_pb2.UNKNOWN, message=message)
    for error in errors:
        status.details.add().Pack(error)
    return bytes(status.SerializeToString())


def _short(error: RuntimeRequestError, longest: int) -> str:
    text = str(error)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def code_number(name: str) -> int:
    """The number of a gRPC status."""
    return int(code_pb2.Code.Value(name))
