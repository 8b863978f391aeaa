"""One client's StreamChannel: messages out through a queue, and what comes in (P4Runtime specification, section 16)."""

from __future__ import annotations

import asyncio
from typing import Any

from switchml.p4runtime.bytestrings import decode
from switchml.p4runtime.refusals import RuntimeRequestError, invalid
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.arbitration import Notice
from switchml.switch_emulator.p4runtime.context import PipelineContext
from switchml.switch_emulator.p4runtime.grpc_status import Context, code_number

_WAITING = 4096  # messages that a client has not taken; more are dropped, but for those of arbitration


class Stream:
    """A live StreamChannel. All methods are for the event loop."""

    def __init__(self) -> None:
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()

    def send(self, message: Any) -> None:
        """Queue a message; one too many is dropped."""
        if self._outgoing.qsize() < _WAITING or message.HasField("arbitration"):
            self._outgoing.put_nowait(message)

    async def write_to(self, context: Context) -> None:
        """Sends what waits, until cancelled."""
        while True:
            await context.write(await self._outgoing.get())


def election_id(message: Any) -> int | None:
    """The 128-bit number of a message's `election_id`; None when unset, which is less than 0."""
    if not message.HasField("election_id"):
        return None
    return int(message.election_id.high) << 64 | int(message.election_id.low)


def arbitration_message(device_id: int, notice: Notice) -> Any:
    """The answer to an arbitration update, and the news of another's."""
    message = pb.StreamMessageResponse()
    update = message.arbitration
    update.device_id = device_id
    if notice.role:
        update.role.name = notice.role
    if notice.election_id is not None:
        update.election_id.high = notice.election_id >> 64
        update.election_id.low = notice.election_id & ((1 << 64) - 1)
    update.status.code = code_number(notice.status)
    update.status.message = {
        "OK": "you are the primary",
        "ALREADY_EXISTS": "another client is the primary",
        "NOT_FOUND": "there is no primary",
    }[notice.status]
    return message


def stream_error(request: Any, error: RuntimeRequestError) -> Any:
    """The report of a stream message that was dropped, with that message."""
    message = pb.StreamMessageResponse()
    message.error.canonical_code = code_number(error.code)
    message.error.message = str(error)
    kind = request.WhichOneof("update")
    if kind == "packet":
        message.error.packet_out.packet_out.CopyFrom(request.packet)
    elif kind == "digest_ack":
        message.error.digest_list_ack.digest_list_ack.CopyFrom(request.digest_ack)
    elif kind == "other":
        message.error.other.other.CopyFrom(request.other)
    else:
        message.error.other.SetInParent()
    return message


def packet_out(pipeline: PipelineContext, packet: Any) -> None:
    """Raises INVALID_ARGUMENT when the metadata is not what the P4Info says, OUT_OF_RANGE for a value that does not fit."""
    fields = {field.id: field for field in pipeline.schema.packet_out}
    metadata: dict[str, int] = {}
    for each in packet.metadata:
        field = fields.get(each.metadata_id)
        if field is None or field.name in metadata:
            raise invalid(f"packet-out metadata {each.metadata_id} is not in the P4Info, or there twice")
        metadata[field.name] = decode(each.value, field.width, f"packet-out metadata {field.name}")
    missing = [field.name for field in fields.values() if field.name not in metadata]
    if missing:
        raise invalid(f"packet-out metadata {', '.join(missing)} is missing")
    pipeline.runtime.packet_out(packet.payload, metadata)
