"""Between plain values and the messages of switch.proto."""

from __future__ import annotations

from switchml.control import switch_pb2 as pb
from switchml.control.messages import (
    EndedJob,
    JobLayout,
    JobStatus,
    JoinOffer,
    MemberStatus,
    SlotReport,
    SwitchStatus,
)
from switchml.control.target import TargetDescription


def target_to_pb(target: TargetDescription) -> pb.DiscoverReply:
    return pb.DiscoverReply(
        host=target.host,
        udp_port=target.udp_port,
        shm_socket=target.shm_socket,
        pool_slots=target.pool_slots,
        max_payload=target.max_payload,
        max_workers=target.max_workers,
        payloads=target.payloads,
    )


def target_from_pb(message: pb.DiscoverReply) -> TargetDescription:
    return TargetDescription(
        message.host,
        message.udp_port,
        message.shm_socket,
        message.pool_slots,
        message.max_payload,
        message.max_workers,
        payloads=tuple(message.payloads),
    )


def offer_to_pb(offer: JoinOffer, session: str, timeout: float) -> pb.JoinRequest:
    """Raises ValueError for a number that does not fit its field. The token is no part of it: it goes in the metadata."""
    return pb.JoinRequest(
        session=session,
        job=offer.job,
        rank=offer.rank,
        world_size=offer.world_size,
        transport=offer.transport,
        address=offer.address,
        port=offer.port,
        ticket=offer.ticket,
        payload=offer.payload,
        window=offer.window,
        paper=offer.paper,
        timeout=timeout,
    )


def offer_from_pb(message: pb.JoinRequest, address: str) -> JoinOffer:
    """`address` takes the place of the one in the message."""
    return JoinOffer(
        job=message.job,
        rank=message.rank,
        world_size=message.world_size,
        transport=message.transport,
        address=address,
        port=message.port,
        ticket=message.ticket,
        payload=message.payload,
        window=message.window,
        paper=message.paper,
    )


def layout_to_pb(layout: JobLayout) -> pb.JoinReply:
    return pb.JoinReply(
        job_number=layout.job_number,
        window=layout.window,
        payload=layout.payload,
        paper=layout.paper,
        multicast_group=layout.multicast_group,
        multicast_port=layout.multicast_port,
        lease=layout.lease,
    )


def layout_from_pb(message: pb.JoinReply) -> JobLayout:
    return JobLayout(
        message.job_number,
        message.window,
        message.payload,
        message.paper,
        message.multicast_group,
        message.multicast_port,
        message.lease,
    )


def slot_to_pb(report: SlotReport) -> pb.SlotReply:
    return pb.SlotReply(
        stamp=report.stamp,
        seen=sorted(report.seen),
        missing=report.missing,
        last_heard=[pb.LastHeard(seconds=seconds) for seconds in report.last_heard],
        left=sorted(report.left),
    )


def slot_from_pb(message: pb.SlotReply) -> SlotReport:
    return SlotReport(
        seen=frozenset(message.seen),
        missing=tuple(message.missing),
        last_heard=[heard.seconds if heard.HasField("seconds") else None for heard in message.last_heard],
        stamp=message.stamp,
        left=frozenset(message.left),
    )


def status_to_pb(status: SwitchStatus) -> pb.StatusReply:
    return pb.StatusReply(
        target=target_to_pb(status.target),
        jobs=[_job_to_pb(job) for job in status.jobs],
        ended=[
            pb.EndedJob(
                name=job.name,
                job_number=job.job_number,
                world_size=job.world_size,
                reason=job.reason,
                ended=job.ended,
            )
            for job in status.ended
        ],
        counters=status.counters,
        free_slots=status.free_slots,
        lease=status.lease,
        uptime=status.uptime,
    )


def status_from_pb(message: pb.StatusReply) -> SwitchStatus:
    return SwitchStatus(
        target=target_from_pb(message.target),
        jobs=tuple(_job_from_pb(job) for job in message.jobs),
        ended=tuple(
            EndedJob(job.name, job.job_number, job.world_size, job.reason, job.ended) for job in message.ended
        ),
        counters=dict(message.counters),
        free_slots=message.free_slots,
        lease=message.lease,
        uptime=message.uptime,
    )


def _job_to_pb(job: JobStatus) -> pb.Job:
    return pb.Job(
        name=job.name,
        job_number=job.job_number,
        world_size=job.world_size,
        state=job.state,
        pool_base=job.pool_base,
        window=job.window,
        payload=job.payload,
        paper=job.paper,
        multicast_group=job.multicast_group,
        multicast_port=job.multicast_port,
        multicast=job.multicast,
        members=[
            pb.Member(
                rank=member.rank,
                transport=member.transport,
                address=member.address,
                port=member.port,
                state=member.state,
                heartbeat=member.heartbeat,
                packet=member.packet,
            )
            for member in job.members
        ],
        counters=job.counters,
        age=job.age,
    )


def _job_from_pb(message: pb.Job) -> JobStatus:
    return JobStatus(
        name=message.name,
        job_number=message.job_number,
        world_size=message.world_size,
        state=message.state,
        pool_base=message.pool_base,
        window=message.window,
        payload=message.payload,
        paper=message.paper,
        multicast_group=message.multicast_group,
        multicast_port=message.multicast_port,
        multicast=message.multicast,
        members=tuple(
            MemberStatus(
                rank=member.rank,
                transport=member.transport,
                address=member.address,
                port=member.port,
                state=member.state,
                heartbeat=member.heartbeat if member.HasField("heartbeat") else None,
                packet=member.packet if member.HasField("packet") else None,
            )
            for member in message.members
        ),
        counters=dict(message.counters),
        age=message.age,
    )
