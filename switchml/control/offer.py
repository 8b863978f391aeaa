"""What makes an offer usable on a given switch, and alike to those of its job."""

from __future__ import annotations

import ipaddress
import math

from switchml.control.control_messages import JoinOffer
from switchml.control.target import DEFAULT_PAYLOAD, TRANSPORTS, TargetDescription
from switchml.errors import LayoutMismatchError, PoolExhaustedError, UsageError, WorldSizeMismatchError
from switchml.protocol.header import MAX_WINDOW
from switchml.protocol.messages import FLOAT32, PAYLOADS, WIRES
from switchml.protocol.probes import secret_of_ticket

_MAX_NAME = 255
_LONGEST_WAIT = 7 * 24 * 3600.0


def check_offer(offer: JoinOffer, target: TargetDescription) -> None:
    """Whether a job of this switch could take the offer.

    Raises:
        UsageError: a value cannot be used.
        WorldSizeMismatchError: the rank is outside the world size.
        PoolExhaustedError: the switch has fewer slots.
    """
    if not offer.job or len(offer.job) > _MAX_NAME or not offer.job.isprintable():
        raise UsageError(f"a job's name has 1 to {_MAX_NAME} printable characters, not {offer.job[:40]!r}")
    if not 1 <= offer.world_size <= target.max_workers:
        raise UsageError(
            f"job {offer.job!r}: world size {offer.world_size}, but this switch takes 1 to {target.max_workers} workers a job"
        )
    if not 0 <= offer.rank < offer.world_size:
        raise WorldSizeMismatchError(
            f"job {offer.job!r}: rank {offer.rank} is outside world size {offer.world_size} "
            f"(ranks are 0 to {offer.world_size - 1})"
        )
    _check_transport(offer, target)
    if offer.wire not in WIRES:
        raise UsageError(f"wire {offer.wire!r}: use one of {', '.join(WIRES)}")
    if offer.wire not in target.wires:
        raise UsageError(
            f"wire {offer.wire}: this switch knows {' and '.join(target.wires)} only; leave the wire out, or use a single switch "
            "with the native pipeline"
        )
    if offer.payload not in (0, *PAYLOADS):
        raise UsageError(f"payload {offer.payload}: use one of {', '.join(map(str, PAYLOADS))} bytes, or 0")
    payload = resolved_payload(offer, target)
    if target.payloads and payload not in target.payloads:
        raise UsageError(
            f"payload {payload}: this switch takes {' or '.join(map(str, target.payloads))} bytes a packet; "
            "ask for one of these, or 0 for the switch's own"
        )
    if payload > target.max_payload:
        raise UsageError(f"payload {payload}: this switch takes at most {target.max_payload} bytes a packet")
    if offer.window & (offer.window - 1) or not 0 <= offer.window <= MAX_WINDOW:
        raise UsageError(f"window {offer.window}: use a power of two from 1 to {MAX_WINDOW} slots, or 0")
    if offer.window > target.pool_slots:
        raise PoolExhaustedError(
            f"window {offer.window}: this switch has {target.pool_slots} slots in all; ask for fewer, or start it with more"
        )


def check_timeout(seconds: float) -> float:
    """`seconds`, held to a week.

    Raises:
        UsageError: not positive.
    """
    if math.isnan(seconds) or seconds <= 0:
        raise UsageError(f"timeout {seconds}: use a positive number of seconds")
    return min(seconds, _LONGEST_WAIT)


def check_same_layout(offer: JoinOffer, other: JoinOffer, target: TargetDescription) -> None:
    """Whether two ranks of one job ask for the same layout.

    Raises:
        LayoutMismatchError: they don't; names both values.
    """
    transports = {offer.transport, other.transport}
    if "memory" in transports and transports & {"udp", "shm"}:
        raise LayoutMismatchError(
            f"job {offer.job!r}: rank {offer.rank} comes by {offer.transport}, rank {other.rank} by {other.transport}, and the "
            "slot machine is in memory only where all ranks are; give every rank the same transport"
        )
    for what, mine, theirs in (
        ("wire", offer.wire, other.wire),
        ("payload", resolved_payload(offer, target), resolved_payload(other, target)),
        ("window", offer.window, other.window),
        ("paper", offer.paper, other.paper),
        ("any_number", offer.any_number, other.any_number),
    ):
        if mine != theirs:
            raise LayoutMismatchError(
                f"job {offer.job!r}: rank {offer.rank} asks for {what} {mine}, rank {other.rank} for {theirs}; "
                "give every rank the same"
            )


def resolved_payload(offer: JoinOffer, target: TargetDescription) -> int:
    """Bytes a packet: what the rank asks for, or the switch's own.

    A narrow wire has more elements in a packet, which share one scale: its own default is no longer than others'.
    """
    own = target.default_payload
    return offer.payload or (own if offer.wire == FLOAT32 else min(own, DEFAULT_PAYLOAD))


def _check_transport(offer: JoinOffer, target: TargetDescription) -> None:
    if offer.transport not in TRANSPORTS:
        raise UsageError(f"transport {offer.transport!r}: use one of {', '.join(TRANSPORTS)}")
    if offer.transport != "udp":
        if not target.shm_socket:
            raise UsageError(f"job {offer.job!r}: this switch has no shared memory; use the transport udp")
        if not offer.ticket:
            raise UsageError(f"job {offer.job!r}: a shared memory worker needs a ticket")
        if offer.transport == "memory" and (offer.paper or not target.in_memory):
            why = "as published it needs packets" if offer.paper else "this switch has faults on purpose"
            raise UsageError(
                f"job {offer.job!r}: the slot machine cannot be in memory, because {why}; use the transport shm"
            )
        return
    try:
        address = ipaddress.IPv4Address(offer.address)
    except ValueError:
        raise UsageError(
            f"address {offer.address!r}: a worker offers its socket's dotted IPv4 address"
        ) from None
    if address.is_multicast or address.is_unspecified or not 1 <= offer.port <= 65535:
        raise UsageError(f"address {offer.address}:{offer.port}: no packet can be sent there")
    if target.proves_addresses and not offer.any_number:
        try:
            secret_of_ticket(offer.ticket)
        except ValueError as error:
            raise UsageError(
                f"job {offer.job!r}: a UDP worker of this switch needs a ticket to prove its address with, and {error}; use the "
                "same version on both sides"
            ) from None
