"""The six calls of P4Runtime on one device. Everything runs on one event loop, one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc.aio
from google.protobuf.message import DecodeError

from switchml.p4runtime.refusals import (
    RuntimeRequestError,
    denied,
    failure,
    invalid,
    not_found,
    unimplemented,
)
from switchml.p4runtime.stubs import p4runtime_pb2 as pb
from switchml.switch_emulator.p4runtime.arbitration import Arbiter, Notice
from switchml.switch_emulator.p4runtime.entities import read_entity, write_update
from switchml.switch_emulator.p4runtime.grpc_status import Context, abort, abort_batch
from switchml.switch_emulator.p4runtime.notifications import Notifications
from switchml.switch_emulator.p4runtime.pipeline_config import PipelineConfigs
from switchml.switch_emulator.p4runtime.stream_channel import (
    Stream,
    arbitration_message,
    election_id,
    packet_out,
    stream_error,
)
from switchml.switch_emulator.runtime import Device

API_VERSION = "1.4.1"
_READ_MESSAGE = 1 << 20  # bytes of entities in one ReadResponse; clients take 4 MiB unless told otherwise


class P4RuntimeService:
    """The servicer of `p4runtime_pb2_grpc`: its methods are named as in p4runtime.proto."""

    def __init__(self, device: Device[Any]) -> None:
        self._device = device
        self._arbiter = Arbiter(device.device_id)
        self._configs = PipelineConfigs(device)
        self._streams: set[Stream] = set()
        self._notifications = Notifications(asyncio.get_running_loop(), self._notify_primaries)
        # Held while a request is carried out. A new primary is thereby accepted only between two Writes (section 5.3).
        self._exclusive = asyncio.Lock()
        self._listen()

    def close(self) -> None:
        """The pipeline is left without listeners."""
        self._notifications.attach(None)

    async def StreamChannel(self, _requests: Any, context: Context) -> None:
        """Serve one client's stream until it ends (section 16)."""
        stream = Stream()
        self._streams.add(stream)
        writer = asyncio.create_task(stream.write_to(context))
        refusal = None
        try:
            while (request := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                await self._take(stream, request)
        except RuntimeRequestError as error:
            refusal = error
        except DecodeError as error:
            refusal = invalid(f"this is no stream message: {error}")
        finally:
            self._streams.discard(stream)
            self._send_notices(self._arbiter.disconnect(stream))
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # to a client that is gone
                await writer
        if refusal is not None:
            await abort(context, refusal)

    async def SetForwardingPipelineConfig(self, request: Any, context: Context) -> Any:
        """Verify, save or commit a pipeline (section 14)."""
        # A client that goes away half-way must not let the next request in before the pipeline is there.
        work = asyncio.ensure_future(self._set_pipeline(request))
        refusal = await asyncio.shield(work)
        if refusal is not None:
            await abort(context, refusal)
        return pb.SetForwardingPipelineConfigResponse()

    async def GetForwardingPipelineConfig(self, request: Any, context: Context) -> Any:
        """What is in force (section 15)."""
        try:
            self._check_device(request.device_id)
            kind = pb.GetForwardingPipelineConfigRequest.ResponseType
            if request.response_type not in kind.values():
                raise invalid(f"there is no response type {request.response_type}")
            async with self._exclusive:
                return self._configs.get(kind.Name(request.response_type))
        except RuntimeRequestError as error:
            await abort(context, error)

    async def Write(self, request: Any, context: Context) -> Any:
        """Carry out a batch of updates in order; one that fails stops no other (section 12)."""
        try:
            async with self._exclusive:
                self._check_primary(request)
                pipeline = self._configs.for_requests()
                if request.atomicity != pb.WriteRequest.CONTINUE_ON_ERROR:
                    raise unimplemented("the only atomicity is CONTINUE_ON_ERROR")
                outcomes = [_outcome(write_update, pipeline, update) for update in request.updates]
                self._notifications.rearm()
        except RuntimeRequestError as error:
            await abort(context, error)
        if any(outcome is not None for outcome in outcomes):
            await abort_batch(context, "updates", outcomes)
        return pb.WriteResponse()

    async def Read(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Stream the entities that the requests select (section 13)."""
        found: list[Any] = []
        try:
            self._check_device(request.device_id)
            async with self._exclusive:
                pipeline = self._configs.for_requests()
                outcomes = [
                    _outcome(lambda *read: found.extend(read_entity(*read)), pipeline, entity)
                    for entity in request.entities
                ]
        except RuntimeRequestError as error:
            await abort(context, error)
        for message in _read_messages(found):
            yield message
        if any(outcome is not None for outcome in outcomes):
            await abort_batch(context, "requests", outcomes)

    async def Capabilities(self, request: Any, context: Context) -> Any:
        """The version of the interface (section 17)."""
        if request.device_id not in (0, self._device.device_id):
            await abort(context, not_found(f"there is no device {request.device_id}"))
        return pb.CapabilitiesResponse(p4runtime_api_version=API_VERSION)

    async def _set_pipeline(self, request: Any) -> RuntimeRequestError | None:
        """The refusal, if any: an exception would be lost with the client that does not wait for it."""
        try:
            async with self._exclusive:
                self._check_primary(request)
                actions = pb.SetForwardingPipelineConfigRequest.Action
                known = request.action in actions.values()
                action = actions.Name(request.action) if known else "UNSPECIFIED"
                config = request.config if request.HasField("config") else None
                await asyncio.to_thread(self._configs.set, action, config)
                self._listen()
        except RuntimeRequestError as error:
            return error
        return None

    async def _take(self, stream: Stream, request: Any) -> None:
        """One message of a stream. Raises what ends the stream; other refusals are reported on it."""
        if request.HasField("arbitration"):
            update = request.arbitration
            async with self._exclusive:
                before = self._arbiter.primaries()
                notices = self._arbiter.update(
                    stream,
                    update.device_id,
                    update.role.name,
                    election_id(update),
                    configured=update.role.HasField("config"),
                )
            if self._arbiter.is_primary_client(stream) and stream not in before:
                self._notifications.forget_unanswered()
            self._send_notices(notices)
            return
        try:
            if not self._arbiter.is_primary_client(stream):
                raise denied("only the primary sends packets and acknowledges digests")
            async with self._exclusive:
                pipeline = self._configs.pipeline()
                if request.HasField("packet"):
                    packet_out(pipeline, request.packet)
                elif request.HasField("digest_ack"):
                    digest = pipeline.schema.digests.by_id.get(request.digest_ack.digest_id)
                    if digest is None:
                        raise invalid(f"there is no digest {request.digest_ack.digest_id:#x} in the P4Info")
                    pipeline.digests.acknowledge(digest.name, request.digest_ack.list_id)
                else:
                    raise unimplemented("this stream message is not supported")
        except RuntimeRequestError as error:
            stream.send(stream_error(request, error))
        except Exception as error:
            stream.send(stream_error(request, failure(error, "a stream message")))

    def _listen(self) -> None:
        """Attach to the pipeline in force, if there is one."""
        with contextlib.suppress(RuntimeRequestError):
            self._notifications.attach(self._configs.pipeline())

    def _send_notices(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            if isinstance(notice.client, Stream) and notice.client in self._streams:
                notice.client.send(arbitration_message(self._device.device_id, notice))

    def _notify_primaries(self, message: Any) -> None:
        for client in self._arbiter.primaries():
            if isinstance(client, Stream):
                client.send(message)

    def _check_device(self, device_id: int) -> None:
        if device_id != self._device.device_id:
            raise not_found(f"there is no device {device_id}; this one is {self._device.device_id}")

    def _check_primary(self, request: Any) -> None:
        """In the order of section 12: device and role, then the election id."""
        self._check_device(request.device_id)
        if not self._arbiter.has_role(request.role):
            raise not_found(f"no client has the role {request.role!r}")
        if not self._arbiter.is_primary(request.role, election_id(request)):
            raise denied("you are not the primary: send an arbitration update with the highest election id")


def _outcome(carry_out: Any, *arguments: Any) -> RuntimeRequestError | None:
    """The rest of a batch goes on whatever happens to one of its requests."""
    try:
        carry_out(*arguments)
    except RuntimeRequestError as error:
        return error
    except Exception as error:
        return failure(error, "a request")
    return None


def _read_messages(entities: Iterable[Any]) -> Iterable[Any]:
    message, size = pb.ReadResponse(), 0
    for entity in entities:
        message.entities.append(entity)
        size += entity.ByteSize()
        if size >= _READ_MESSAGE:
            yield message
            message, size = pb.ReadResponse(), 0
    if size:
        yield message
