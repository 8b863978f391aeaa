"""Where ranks stand in a stream whose switch is gone, and how the stream goes on at another: no I/O, no clock.

Each slot walks a chain of its own (window.py), so what a rank has been answered is a number for each slot: the first position of
the chain without a result, its frontier. Position p + W leaves only with the result of p in hand, and is answered only when all
have sent it; so two ranks' frontiers of a slot are the same, or W apart. What some have and others have not is therefore at most
one chunk a slot, which all ranks have sent: they know it from what they keep of their own packets, sum it up once more
(failover.py), and all stand at the highest frontier. What comes after has its inputs intact, because nobody has its result.

A new switch has seen nothing: there a slot begins with its first turn. `base` is by how much its positions are ahead of that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from switchml.errors import CollectiveError
from switchml.worker.window import ASKING, IDLE, READY, RESEND, SENT, Window

Longs = npt.NDArray[np.int64]


def next_of_slots(first: int, width: int) -> Longs:
    """Of each slot, its first position from `first` on."""
    slots = np.arange(width, dtype=np.int64)
    return first + (slots - first) % width


def frontiers(window: Window) -> Longs:
    """Of each slot, the first position of its chain without a result; (W,)."""
    stream, slots = window.stream[0], window.slots
    # A slot without a position to be sent has had results of all that are laid.
    unlaid = next_of_slots(int(stream["end"]), int(stream["window"]))
    return np.where(slots["state"] == IDLE, unlaid, slots["position"])


def contested(standings: Longs) -> npt.NDArray[np.intp]:
    """The slots with a chunk that some ranks have the result of and others have not: that at the lowest of their frontiers.

    Args:
        standings: (ranks, W), each row a rank's `frontiers`.

    Raises:
        CollectiveError: they are none of one stream.
    """
    width = standings.shape[1]
    spread = standings.max(axis=0) - standings.min(axis=0)
    if np.any(standings % width != np.arange(width)) or not np.isin(spread, (0, width)).all():
        raise CollectiveError(
            "the ranks do not stand where ranks of one stream can: have all called the same collectives?"
        )
    return np.flatnonzero(spread)


def begin_anew(window: Window, job: int, first: int) -> None:
    """Have the stream go on at a switch that has seen nothing of it: what has no result is sent again.

    All ranks have the same frontiers.

    Args:
        window: of the stream.
        job: its number there.
        first: the position on the wire from which on it goes on.
    """
    stream, slots = window.stream[0], window.slots
    slots["base"] = frontiers(window) - next_of_slots(first, int(stream["window"]))
    flying = np.isin(slots["state"], (SENT, RESEND, ASKING))
    slots["state"][flying] = READY
    for field in ("asked", "come", "retries", "length", "sent_at", "asked_at", "order"):
        slots[field] = 0
    ready = np.sort(slots["position"][slots["state"] == READY])
    window.fifo[: ready.size] = ready
    stream["fifo_head"], stream["fifo_tail"] = 0, ready.size
    for name in ("sends", "in_flight", "bytes_in_flight", "asking", "asked", "forgiven"):
        stream[name] = 0
    stream["job"] = job
