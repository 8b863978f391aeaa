"""Messages from what a controller says of its switch. Plain functions; event_table.py says what is in the messages.

They share the fields of what they are made from: `dataclasses.asdict` would copy each, which takes ten times as long as the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from switchml.control.control_messages import JobStatus, SwitchStatus
from switchml.control.target import SlotMap
from switchml.telemetry.event_table import CHANGE, COUNTERS, FIELDS, JOBS, SLOTS, SWITCH

Message = dict[str, Any]

_JOB = tuple(
    field.path.removeprefix("jobs.[].")
    for field in FIELDS
    if field.kind == JOBS and field.path.startswith("jobs.[].") and field.path.count(".") == 2
)


def switch_message(status: SwitchStatus, suspended: str = "") -> Message:
    """What the switch is."""
    target = status.target
    return {
        "kind": SWITCH,
        "host": target.host,
        "udp_port": target.udp_port,
        "pool_slots": target.pool_slots,
        "free_slots": status.free_slots,
        "lease": status.lease,
        "uptime": status.uptime,
        "suspended": suspended,
    }


def counters_message(status: SwitchStatus) -> Message:
    """What it has counted."""
    jobs = {str(job.job_number): job.counters for job in status.jobs if job.job_number}
    return {"kind": COUNTERS, "counters": status.counters, "jobs": jobs}


def jobs_message(status: SwitchStatus) -> Message:
    """Who is there."""
    jobs = [
        {name: getattr(job, name) for name in _JOB} | {"members": [vars(member) for member in job.members]}
        for job in status.jobs
    ]
    return {"kind": JOBS, "jobs": jobs, "ended": [vars(job) for job in status.ended]}


def slots_message(maps: Mapping[int, SlotMap]) -> Message:
    """What the slots wait for."""
    return {"kind": SLOTS, "jobs": {str(number): vars(each) for number, each in maps.items()}}


def changes(before: SwitchStatus, after: SwitchStatus) -> Iterator[Message]:
    """What has come, gone on and gone between two looks."""
    known = {_key(job): job for job in before.jobs}
    for job in after.jobs:
        # It was there under its name alone while it gathered its ranks.
        earlier = known.pop(_key(job), None) or known.pop((job.name, 0), None)
        if earlier is None or earlier.state != job.state:
            yield _change("job", job.name, job.job_number, job.state)
        states = {} if earlier is None else {member.rank: member.state for member in earlier.members}
        for member in job.members:
            if states.get(member.rank) != member.state:
                yield _change("worker", job.name, job.job_number, member.state, member.rank)
    told = {(end.name, end.job_number) for end in before.ended}
    ended = [end for end in reversed(after.ended) if (end.name, end.job_number) not in told]
    for end in ended:
        known.pop((end.name, end.job_number), None)
        known.pop((end.name, 0), None)
        yield _change("job", end.name, end.job_number, "ended", reason=end.reason)
    for name, number in known:
        yield _change("job", name, number, "ended", reason="" if number else "its ranks did not all come")


def _key(job: JobStatus) -> tuple[str, int]:
    return job.name, job.job_number


def _change(what: str, name: str, number: int, state: str, rank: int = -1, reason: str = "") -> Message:
    return {
        "kind": CHANGE,
        "what": what,
        "name": name,
        "job_number": number,
        "rank": rank,
        "state": state,
        "reason": reason,
    }
