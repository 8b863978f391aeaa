"""Named counters of switches and workers. Code indexes them by constant, people read them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Counter(NamedTuple):
    """A counter's name and what it counts."""

    name: str
    meaning: str


SWITCH_COUNTERS: tuple[Counter, ...] = (
    Counter("packets_received", "packets that came in on any port"),
    Counter("bytes_received", "their bytes, from the header on"),
    Counter("packets_sent", "packets sent out; a multicast counts once"),
    Counter("bytes_sent", "their bytes"),
    Counter("elements_added", "int32 elements taken into a sum"),
    Counter("chunks_completed", "chunks whose last worker came"),
    Counter("results_retransmitted", "results sent again to one worker"),
    Counter("probes_answered", "probes answered"),
    Counter("asks_answered", "questions about a chunk that is not complete, answered"),
    Counter("dropped_duplicate", "the worker is in the sum already, others are missing"),
    Counter("dropped_stale", "older than what the slot works on"),
    Counter("dropped_ahead", "the chunk a window before is not complete, so no worker can have sent it"),
    Counter("dropped_truncated", "shorter than its header says, or than a header"),
    Counter("dropped_wrong_size", "payload is not the job's, or not the chunk's"),
    Counter("dropped_bad_header", "unknown message type, or `to_one` and `but_one` where they cannot be"),
    Counter("dropped_wrong_slot", "slot outside the job's range"),
    Counter("dropped_wrong_version", "version does not follow from the sequence number"),
    Counter("dropped_unknown_sender", "address and port belong to no worker of a job"),
    Counter("dropped_wrong_job", "a known sender, another job number"),
    Counter("dropped_port_full", "no room towards a worker: its receive ring or the socket's buffer"),
    Counter("dropped_over_limit", "more packets a second than the job's tenant may send"),
    Counter(
        "dropped_by_kernel", "datagrams, or trains, that found no room at the port or came from a flooder"
    ),
    Counter("floods_cut", "senders cut off for a second, for packets of no use"),
    Counter("fault_lost", "dropped on purpose by the fault injector"),
    Counter("fault_duplicated", "doubled on purpose"),
    Counter("fault_reordered", "held back on purpose"),
)

WORKER_COUNTERS: tuple[Counter, ...] = (
    Counter("packets_sent", "packets sent, retransmissions included"),
    Counter("bytes_sent", "their bytes, from the header on"),
    Counter("packets_received", "results taken"),
    Counter("bytes_received", "their bytes"),
    Counter("retransmissions", "packets sent again because no result came in time"),
    Counter("packets_asked_for", "questions to the switch whether a packet has come"),
    Counter("answers_received", "answers to these without a result"),
    Counter("chunks_completed", "chunks whose result was taken"),
    Counter("blocks_exact", "float blocks exchanged exactly: NaN, Inf or beyond 2^126"),
    Counter("dropped_duplicate", "results that had come before"),
    Counter("dropped_stale", "results for a chunk long done"),
    Counter("dropped_foreign", "packets of another job or sender, or no result at all"),
    Counter("dropped_truncated", "shorter than a header or than the chunk"),
    Counter("port_full", "sends put off because the port had no room"),
)


def indices(table: tuple[Counter, ...]) -> dict[str, int]:
    """The place of every counter in an array of them, by name."""
    return {counter.name: index for index, counter in enumerate(table)}


def named(table: tuple[Counter, ...], values: object) -> dict[str, int]:
    """Counter values by name; `values` is an integer array in the table's order."""
    return {counter.name: int(value) for counter, value in zip(table, values, strict=True)}  # type: ignore[call-overload]


def copies_dropped(counters: Mapping[str, int]) -> int:
    """Packets that a switch had no use for, since it had them already; those that it doubled on purpose are left out."""
    dropped, stale, doubled = (
        counters.get(name, 0) for name in ("dropped_duplicate", "dropped_stale", "fault_duplicated")
    )
    return dropped + stale - doubled
