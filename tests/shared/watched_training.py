"""Pictures of a switch that is idle, that trains, and that trains with a late rank; from messages, as a switch sends them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from watched_switch import NAME, counters, job, member, slots, status

from switchml.control.control_messages import EndedJob
from switchml.telemetry.events import (
    changes,
    counters_message,
    jobs_message,
    slots_message,
    switch_message,
)
from switchml.telemetry.picture import Picture

SWITCH = "127.0.0.1:50551"
RANKS = 4
SLOTS = 256
SECONDS = 20
LATE = 2
"""The rank that is late, where one is."""


def slot_map(look: int, late: int | None) -> Any:
    """One slot in eight waits for one rank or two, in turn; with a late rank all others wait for that one."""
    missing, first, by_rank = [], [], [0] * RANKS
    for slot in range(SLOTS):
        turn = (slot + look) % 8
        ranks = {0: [slot // 8 % RANKS], 4: [0, 3]}.get(turn, [] if late is None else [late])
        missing.append(len(ranks))
        first.append(ranks[0] if ranks else -1)
        for rank in ranks:
            by_rank[rank] += 1
    return slots(missing=tuple(missing), first=tuple(first), late=tuple(by_rank))


def messages(*, trains: bool = True, late: int | None = None) -> Iterator[dict[str, Any]]:
    """Of some seconds."""
    ended = (EndedJob(NAME, 2, RANKS, "rank 1 has died: its connection was closed", 75.0),)
    before = status()
    for second in range(SECONDS):
        counted = counters(
            packets_received=1_000_000 * second,
            packets_sent=900_000 * second,
            bytes_received=10**9 * second,
            bytes_sent=9 * 10**8 * second,
            chunks_completed=250_000 * second,
            elements_added=800_000_000 * second,
            dropped_stale=17 * second,
        )
        members = tuple(
            member(
                rank,
                packet=1.5 if rank == late else 0.0,
                sent_again=100 * rank,
                round_trip=0.001 + second / 1e5,
            )
            for rank in range(RANKS)
        )
        one = job(world_size=RANKS, members=members, window=SLOTS, age=60.0 + second, counters=counted)
        there = status(one, ended=ended, **counted) if trains else status()
        found = [switch_message(there), jobs_message(there), counters_message(there), *changes(before, there)]
        if trains:
            found += [slots_message({3: slot_map(look, late)}) for look in range(10)]
        before = there
        for place, message in enumerate(found):
            yield {
                "version": 1,
                "switch": SWITCH,
                "time": 1000.0 + second + place / 100,
                "number": 0,
                **message,
            }


def watched_training(*, trains: bool = True, late: int | None = None) -> Picture:
    """What they add up to."""
    picture = Picture()
    for message in messages(trains=trains, late=late):
        picture.take(message)
    return picture
