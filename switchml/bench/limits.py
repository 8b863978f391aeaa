"""The fastest that an all-reduce can be on links of a given rate.

In-network aggregation sends the tensor up and receives it back, both at once on a full-duplex link: the limit of
its algbw is the goodput of one link. A ring sends and receives 2 (n - 1) / n of the tensor. So does each host where all carry a
switch; a switch on one worker's host takes in what all the others have.
"""

from __future__ import annotations

from dataclasses import dataclass

from switchml.protocol.header import HEADER_BYTES

UDP_IPV4_HEADER = 28
TCP_IPV4_HEADER = 52  # with the timestamps that Linux always sends
ETHERNET_HEADER = 14
ETHERNET_WIRE = 38  # header, preamble, checksum and gap


SWITCHES = {
    "hub": "the switch in the middle, with a link as fast as all of them",
    "one": "the switch on the first worker's host",
    "each": "a switch on each worker's host",
    "racks": "a switch in each rack and one above them",
}
"""Where emulated switches are, in words."""


@dataclass(frozen=True)
class Framing:
    """What a packet costs on a link besides its IP bytes."""

    overhead: int
    words: str


WIRE = Framing(ETHERNET_WIRE, "Ethernet header, preamble, checksum and gap: 38 bytes a packet")
SHAPED = Framing(ETHERNET_HEADER, "tbf counts the Ethernet header only: 14 bytes a packet")


def goodput_limit(rate: int, payload: int, framing: Framing = WIRE) -> float:
    """Payload bytes a second that a link of `rate` bit/s carries in packets of `payload` bytes."""
    packet = payload + HEADER_BYTES + UDP_IPV4_HEADER + framing.overhead
    return rate / 8 * payload / packet


def passes(switches: str, workers: int, a_host: int = 1) -> float:
    """How often a tensor passes the busiest link, in one direction.

    Args:
        switches: where they are, of `SWITCHES`.
        workers: their number.
        a_host: workers on each host.
    """
    others = workers - a_host
    return {
        "hub": float(a_host),
        "one": float(others),
        "each": 2 * a_host * others / workers,
        "racks": float(a_host),
    }[switches]


def uplink_passes(switches: str, workers: int, racks: int) -> float:
    """How often a tensor passes the link between a rack and the middle, upwards: for each of its workers, or once as a sum."""
    return {"hub": workers / racks, "racks": 1.0}[switches]


def spread_limit(
    rate: int, payload: int, switches: str, workers: int, framing: Framing = WIRE, a_host: int = 1
) -> float:
    """Limit of the algbw, in bytes a second, of aggregation by such switches. Arguments as for `passes` and `goodput_limit`."""
    often = passes(switches, workers, a_host)
    return goodput_limit(rate, payload, framing) / often if often else float("inf")


def tcp_goodput_limit(rate: int, mtu: int = 1500, framing: Framing = WIRE) -> float:
    """Payload bytes a second that TCP with full segments carries over a link of `rate` bit/s."""
    return rate / 8 * (mtu - TCP_IPV4_HEADER) / (mtu + framing.overhead)


def ring_limit(rate: int, workers: int, mtu: int = 1500, framing: Framing = WIRE) -> float:
    """Limit of the algbw, in bytes a second, of a ring over TCP."""
    if workers < 2:
        return float("inf")
    return tcp_goodput_limit(rate, mtu, framing) * workers / (2 * (workers - 1))
