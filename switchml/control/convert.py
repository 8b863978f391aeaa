"""Between plain values and the messages of switch.proto, whose fields are named alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message

from switchml.control import switch_pb2 as pb
from switchml.control.control_messages import (
    Departure,
    EndedJob,
    JobLayout,
    JobStatus,
    JoinOffer,
    MemberStatus,
    Pace,
    Resent,
    SlotReport,
    SwitchStatus,
)
from switchml.control.target import TargetDescription
from switchml.protocol.messages import FLOAT32

_Message = TypeVar("_Message", bound=Message)
_Value = TypeVar("_Value")


def _message(kind: type[_Message], value: object, **given: Any) -> _Message:
    """A message whose fields are the value's of the same names; `given` takes the place of the value's."""
    names = kind.DESCRIPTOR.fields_by_name
    return kind(**{name: getattr(value, name) for name in names if name not in given}, **given)


def _value(kind: type[_Value], message: Message, **given: Any) -> _Value:
    """A dataclass from the message's fields of the same names, absent optional ones as None.

    `given` takes the place of the message's; what neither has keeps its default.
    """
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, field in message.DESCRIPTOR.fields_by_name.items():
        if name in names - given.keys():
            absent = field.containing_oneof is not None and not message.HasField(name)
            given[name] = None if absent else _plain(getattr(message, name))
    return kind(**given)


def _plain(field: Any) -> Any:
    if isinstance(field, str | int | float):
        return field
    return dict(field) if hasattr(field, "items") else tuple(field)


def target_to_pb(target: TargetDescription) -> pb.DiscoverReply:
    """What Discover and Status say of the switch."""
    return _message(pb.DiscoverReply, target)


def target_from_pb(message: pb.DiscoverReply) -> TargetDescription:
    """The way back of `target_to_pb`."""
    return _value(TargetDescription, message)


def offer_to_pb(offer: JoinOffer, session: str, timeout: float) -> pb.JoinRequest:
    """A request to join. The token is no part of it: it goes in the metadata.

    Raises:
        ValueError: a number does not fit its field.
    """
    return _message(pb.JoinRequest, offer, session=session, timeout=timeout)


def offer_from_pb(message: pb.JoinRequest, address: str) -> JoinOffer:
    """The offer of a request, but for its address: `address` takes the place of the message's."""
    return _value(JoinOffer, message, address=address, wire=message.wire or FLOAT32)


def layout_to_pb(layout: JobLayout) -> pb.JoinReply:
    """The answer to a join."""
    return _message(pb.JoinReply, layout)


def layout_from_pb(message: pb.JoinReply) -> JobLayout:
    """The way back of `layout_to_pb`."""
    return _value(JobLayout, message, wire=message.wire or FLOAT32)


def departures_to_pb(departures: Mapping[int, Departure]) -> pb.HeartbeatReply:
    """The answer to a heartbeat."""
    return pb.HeartbeatReply(
        departures=[
            _message(pb.Departure, departure, rank=rank) for rank, departure in sorted(departures.items())
        ]
    )


def departures_from_pb(message: pb.HeartbeatReply) -> dict[int, Departure]:
    """The way back of `departures_to_pb`."""
    return {each.rank: _value(Departure, each) for each in message.departures}


def resent_from_pb(message: pb.HeartbeatRequest | pb.LeaveRequest) -> Resent:
    """What a worker says of itself."""
    return _value(Resent, message)


def pace_from_pb(message: pb.HeartbeatRequest) -> Pace:
    """What a worker says of itself, as far as it can be."""
    pace = _value(Pace, message)
    return pace if 0 <= pace.round_trip < math.inf else dataclasses.replace(pace, round_trip=0.0)


def slot_to_pb(report: SlotReport) -> pb.SlotReply:
    """The answer to a question about a chunk."""
    heard = [pb.LastHeard(seconds=seconds) for seconds in report.last_heard]
    return _message(
        pb.SlotReply, report, seen=sorted(report.seen), last_heard=heard, left=sorted(report.left)
    )


def slot_from_pb(message: pb.SlotReply) -> SlotReport:
    """The way back of `slot_to_pb`."""
    heard = [each.seconds if each.HasField("seconds") else None for each in message.last_heard]
    return _value(
        SlotReport, message, seen=frozenset(message.seen), last_heard=heard, left=frozenset(message.left)
    )


def status_to_pb(status: SwitchStatus) -> pb.StatusReply:
    """The answer to Status."""
    jobs = [
        _message(pb.Job, job, members=[_message(pb.Member, member) for member in job.members])
        for job in status.jobs
    ]
    ended = [_message(pb.EndedJob, job) for job in status.ended]
    return _message(pb.StatusReply, status, target=target_to_pb(status.target), jobs=jobs, ended=ended)


def status_from_pb(message: pb.StatusReply) -> SwitchStatus:
    """The way back of `status_to_pb`."""
    jobs = tuple(
        _value(JobStatus, job, members=tuple(_value(MemberStatus, member) for member in job.members))
        for job in message.jobs
    )
    ended = tuple(_value(EndedJob, job) for job in message.ended)
    return _value(SwitchStatus, message, target=target_from_pb(message.target), jobs=jobs, ended=ended)
