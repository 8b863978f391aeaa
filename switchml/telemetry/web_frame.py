"""A picture of switches as the page of `switchml top --web` draws it: plain values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from switchml.telemetry.picture import JobPicture, Meter, Picture, SwitchPicture, readable_name
from switchml.telemetry.terminal_view import TROUBLES

_DRAWN = ("packets_received", "packets_sent", "bytes_received", "bytes_sent", "chunks_completed")
_JOB_ENTRIES = (
    *("name", "job_number", "world_size", "state", "window", "payload", "wire", "age", "waits_for"),
    *("pool_base", "multicast"),
)
_MEMBER_ENTRIES = ("transport", "address", "state", "heartbeat", "packet", "sent_again", "arrived_twice")


def frame(picture: Picture, now: float, *, replayed: str = "", ended: bool = False) -> dict[str, Any]:
    """What is shown at a time.

    Args:
        picture: of the switches.
        now: by the clock of `Picture.take`.
        replayed: the recording that it comes from; "" = it happens now.
        ended: nothing more will come.
    """
    return {
        "replayed": replayed,
        "ended": ended,
        "switches": [_switch(switch, now - switch.heard) for switch in picture.switches.values()],
    }


def _switch(switch: SwitchPicture, silence: float) -> dict[str, Any]:
    meter = switch.meter
    return {
        "address": switch.address,
        "about": switch.about,
        "silence": silence,
        "missed": switch.missed,
        "lately": _lately(meter, *_DRAWN),
        "counters": {name: meter.counters.get(name, 0) for name in _DRAWN},
        "troubles": [
            {
                "name": name.removeprefix("dropped_").replace("_", " "),
                "rate": meter.rate(name),
                "count": meter.counters[name],
                "lately": meter.lately(name),
            }
            for name in TROUBLES
            if meter.counters.get(name)
        ],
        "jobs": [_job(job) for job in switch.jobs.values()],
        "ended": [{**end, "name": readable_name(end["name"])} for end in switch.ended],
        "changes": [
            {**_some(change, "what", "rank", "state", "reason", "job_number"), "name": readable_name(change["name"]),
             "ago": max(0.0, switch.time - change["time"])}
            for change in switch.changes
        ],
    }  # fmt: skip


def _job(job: JobPicture) -> dict[str, Any]:
    ranks = max(1, int(job.status["world_size"]))
    members = [
        {
            "rank": rank,
            "late": worker.late,
            "slots": _entry(job.slots.get("late", ()), rank),
            "round_trips": list(worker.round_trip.points),
            "windows": list(worker.in_flight.points),
            **_some(worker.status, *_MEMBER_ENTRIES),
        }
        for rank, worker in sorted(job.workers.items())
        if worker.status
    ]
    return {
        **_some(job.status, *_JOB_ENTRIES),
        "key": f"{job.status['job_number']} {job.status['name']}",
        "name": readable_name(job.status["name"]),
        "sums": [rate / ranks for rate in job.meter.lately("elements_added")],
        "members": members,
        "missing": job.slots.get("missing", ()),
        "first": job.slots.get("first", ()),
        "again": [sum(pair) for pair in zip(job.slots.get("resent", ()), job.slots.get("dropped", ()), strict=False)],
    }  # fmt: skip


def _lately(meter: Meter, *names: str) -> dict[str, list[float]]:
    return {name: meter.lately(name) for name in names}


def _some(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names}


def _entry(values: Any, index: int) -> int:
    return values[index] if index < len(values) else 0
