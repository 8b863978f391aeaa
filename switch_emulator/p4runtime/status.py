"""How refusals cross gRPC: a status, and for batches one `p4.v1.Error` a request in its details (specification, section 10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

from switchml.p4runtime_stubs import code_pb2, status_pb2
from switchml.p4runtime_stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.runtime import RuntimeRequestError

Context = grpc.aio.ServicerContext[Any, Any]
DETAILS_KEY = "grpc-status-details-bin"
# Clients refuse metadata above 8 KiB unless told otherwise, and it grows by a third on its way.
_LARGEST_DETAILS = 5500  # bytes
_FRAME = 48  # bytes of a p4.v1.Error in google.protobuf.Any, without its sentence


async def abort(context: Context, error: RuntimeRequestError) -> NoReturn:
    await context.abort(grpc.StatusCode[error.code], str(error))
    raise AssertionError("abort returned")


async def abort_batch(
    context: Context, what: str, outcomes: Sequence[RuntimeRequestError | None]
) -> NoReturn:
    """Ends a call of which some requests failed; `outcomes` has one a request, None = it was carried out."""
    failed = sum(outcome is not None for outcome in outcomes)
    message = f"{failed} of {len(outcomes)} {what} failed"
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
    excess = sum(len(error.message) for error in errors) + _FRAME * len(errors) - _LARGEST_DETAILS
    for error in reversed(errors):
        if excess <= 0:
            break
        excess -= len(error.message)
        error.ClearField("message")
    status = status_pb2.Status(code=code_pb2.UNKNOWN, message=message)
    for error in errors:
        status.details.add().Pack(error)
    return bytes(status.SerializeToString())


def code_number(name: str) -> int:
    return int(code_pb2.Code.Value(name))
