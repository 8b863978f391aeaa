"""What the programs of this folder share: their options, and the ranks they start on the hosts."""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path

from switches import TOKEN
from topology import Network

from switchml.bench import rank_protocol
from switchml.bench.limits import SHAPED, goodput_limit
from switchml.bench.rank_group import RankGroup
from switchml.bench.results import Measurement
from switchml.bench.systems.catalogue import VARIANTS, options_of
from switchml.bench.units import parse_rate
from switchml.bench.verification import Verdict, element_type
from switchml.protocol.messages import FLOAT32
from switchml.testbed import LinkShape

TIMEOUT = 300.0


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that describe the network."""
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", default="100mbit", help="of every link, each way; 0 = unshaped")
    parser.add_argument(
        "--loss", type=float, default=0.0, help="share of packets that every link loses, each way"
    )
    parser.add_argument(
        "--delay", type=float, default=0.0, help="milliseconds, each way; needs the kernel's netem"
    )
    parser.add_argument(
        "--program",
        type=Path,
        help="P4 program (BMv2 JSON) in place of p4/build/switchml_256.json, BMv2's switchml_64.json",
    )


def shape_of(options: argparse.Namespace) -> LinkShape:
    """What every link does, from those options."""
    rate = 0 if options.rate == "0" else parse_rate(options.rate)
    return LinkShape(rate=rate, loss=options.loss, delay=options.delay / 1000)


def ranks(network: Network, *, window: int = 0, payload: int = 0) -> RankGroup:
    """A rank on every host, joined to one job; a context manager."""
    entry = VARIANTS["udp"]
    options = options_of(
        entry,
        switch=network.control_address,
        token=TOKEN,
        job=f"mininet-{os.getpid()}-{secrets.token_hex(4)}",
        payload=payload,
        wire=FLOAT32,
        window=window,
        timeout=TIMEOUT,
    )
    return RankGroup(entry, len(network.namespaces), options, namespaces=network.namespaces, interface="eth0")


def prepare(group: RankGroup, size: int) -> Verdict:
    """Have tensors of `size` bytes ready and sum them once, compared with what the sum must be."""
    kind = element_type("float32")
    group.ask(rank_protocol.Prepare(max(1, size // kind.itemsize), kind.name, "sum"), TIMEOUT)
    return sum(group.ask(rank_protocol.Check(), TIMEOUT), Verdict(0, 0, 0.0))


def check(network: Network, size: int) -> Verdict:
    """One summation over the whole network."""
    with ranks(network) as group:
        return prepare(group, size)


def measure(group: RankGroup, system: str, size: int, rounds: int, rate: int) -> Measurement:
    """Times of single all-reduces, the slowest rank's each; the sums are checked first."""
    verdict = prepare(group, size)
    before = group.counters(TIMEOUT)
    times = [float(max(group.ask(rank_protocol.Batch(1, 1), TIMEOUT))) for _ in range(rounds)]
    kind = element_type("float32")
    return Measurement(
        system=system,
        workers=group.world_size,
        size=size,
        count=max(1, size // kind.itemsize),
        dtype=kind.name,
        op="sum",
        iterations=1,
        rounds=tuple(times),
        verdict=verdict,
        counters={name: value - before[name] for name, value in group.counters(TIMEOUT).items()},
        facts=group.facts,
        limit=goodput_limit(rate, group.facts["payload"], SHAPED) if rate else None,
    )
