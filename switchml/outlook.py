"""What to expect of a job from what was measured between one of its hosts and its switches: figures in, a sentence out. No I/O.

All n workers send a tensor up and get its sum down: with a switch whose link carries n of them at once, an all-reduce takes the
time that one worker's bytes take, and a ring 2(n-1)/n times that. A switch in software stands behind one link, which the n share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from switchml.protocol.header import HEADER_BYTES, MAX_WINDOW
from switchml.protocol.messages import PAYLOADS

# UDP, IP and Ethernet headers, checksum, preamble and gap.
_ON_THE_WIRE = HEADER_BYTES + 28 + 38
_IP_AND_UDP = 28
# Shares from which something counts as the limit, since no measurement reaches all of it.
_FULL = 0.8
_BUSY = 0.85
_LOSSY = 0.001
# Share of the packets from which it is worth a word that they were sent again.
_COPIES = 0.01


class Limit(StrEnum):
    """What bounds a path."""

    PROCESSOR = "the processor here"
    LOSS = "loss on the way"
    WINDOW = "the window"
    OWN_LINK = "this host's link"
    BEYOND = "a link beyond this host's, or the switch"
    UNKNOWN = "the network"


@dataclass(frozen=True)
class SwitchPath:
    """The way between this host and a switch, as one worker found it.

    Attributes:
        switch: its control address.
        goodput: bit/s of a tensor, up and down at once.
        round_trip: seconds of a packet on an idle path.
        loss_up: share of the packets that did not arrive there.
        loss_down: share of the results that did not arrive here.
        window: slots.
        payload: bytes a packet.
        largest_payload: that the switch takes.
        busy: share of a processor that this process used.
        local: the switch is on this host.
        software: it is an emulated one, all of whose workers share its host's link.
        link: bit/s of the interface here; None = unknown.
        mtu: of that interface, in bytes; 0 = unknown.
    """

    switch: str
    goodput: float
    round_trip: float
    loss_up: float
    loss_down: float
    window: int
    payload: int
    largest_payload: int
    busy: float
    local: bool
    software: bool
    link: float | None = None
    mtu: int = 0

    @property
    def limit(self) -> Limit:
        """What keeps `goodput` from being more."""
        if max(self.loss_up, self.loss_down) >= _LOSSY:
            return Limit.LOSS
        if self.link is not None and not self.local and self.goodput >= _FULL * self._payload_rate(self.link):
            return Limit.OWN_LINK
        if self.local or self.busy >= _BUSY:
            return Limit.PROCESSOR
        if self.goodput >= _FULL * self.window * self.payload * 8 / self.round_trip:
            return Limit.WINDOW
        return Limit.UNKNOWN if self.link is None else Limit.BEYOND

    def _payload_rate(self, link: float) -> float:
        return link * self.payload / (self.payload + _ON_THE_WIRE)

    @property
    def setting(self) -> str:
        """What would help, "" for nothing that we know of."""
        jumbo = max((each for each in PAYLOADS if each + HEADER_BYTES + _IP_AND_UDP <= self.mtu), default=0)
        jumbo = min(jumbo, self.largest_payload)
        match self.limit:
            case Limit.LOSS if self.window > 16:
                return f"a smaller window (SWITCHML_WINDOW={self.window // 4}) or longer queues in the network would help"
            case Limit.WINDOW if self.window < MAX_WINDOW:
                return f"a larger window (SWITCHML_WINDOW={min(4 * self.window, MAX_WINDOW)}) would help"
            case _ if not self.local and jumbo > self.payload:
                return f"larger packets (SWITCHML_PAYLOAD={jumbo}), which this interface takes, would help"
        return ""


@dataclass(frozen=True)
class Outlook:
    """What a job of this size can expect.

    Attributes:
        workers: of the job.
        limit: what bounds the slowest path.
        goodput: bit/s that a worker's tensor moves at, each way, over all switches.
        against_ring: how many times as fast as a ring among such workers it is, if the switches' links carry all workers.
        with_equal_links: the same, if each of them has a link like this host's.
        sentence: for people.
    """

    workers: int
    limit: Limit
    goodput: float
    against_ring: float
    with_equal_links: float
    sentence: str


def outlook(paths: Sequence[SwitchPath], workers: int) -> Outlook:
    """Sums up.

    Args:
        paths: to every switch of the job; at least one.
        workers: of the job, at least 2.
    """
    slowest = min(paths, key=lambda path: path.goodput)
    # A link carries no more for being used by several switches.
    goodput = slowest.goodput
    shared = any(path.software and not path.local for path in paths)
    ring = 2 * (workers - 1) / workers
    equal = ring * min(1.0, len(paths) / workers) if shared else ring
    whose = f" on the way to {slowest.switch}" if len(paths) > 1 else ""
    first = f"{slowest.limit}{whose} limits, at {rate(goodput)} of a tensor each way"
    if slowest.local:
        second = (
            f"the switch is on this host, whose {workers} workers can be up to 2(n-1)/n = {ring:.2f} times as fast as a ring (to "
            "see its link, call this from a host that reaches it over the network)"
        )
    elif shared:
        needed = rate(goodput * workers / len(paths))
        each = "its link carries" if len(paths) == 1 else "the link of each carries"
        second = (
            f"{workers} workers can be up to 2(n-1)/n = {ring:.2f} times as fast as a ring where {each} {needed}, and "
            f"{equal:.2f} times where it is like this host's"
        )
    else:
        second = f"{workers} workers can be up to 2(n-1)/n = {ring:.2f} times as fast as a ring"
    third = slowest.setting
    if not third and shared and equal < 1:
        third = "one switch a host, or a switch with a faster link, would help"
    sentence = f"{first}; {second}; {third or 'no setting that we know of would help'}."
    return Outlook(workers, slowest.limit, goodput, ring, equal, sentence[0].upper() + sentence[1:])


@dataclass(frozen=True)
class Steps:
    """What ranks measured of a training, in seconds a step, which is a batch.

    Attributes:
        workers: of the job.
        seconds: a step took.
        input: of that, waiting for the data.
        network: waiting for the sums of gradients, where no rank is later than the others.
        ranks: waiting for them because another rank was late.
        cores: of this machine for its workers; 0 = unknown.
        here: workers on this machine.
    """

    workers: int
    seconds: float
    input: float
    network: float
    ranks: float
    cores: int = 0
    here: int = 0

    @property
    def computing(self) -> float:
        """What is left, in seconds."""
        return max(0.0, self.seconds - self.input - self.network - self.ranks)

    @property
    def best_network(self) -> float:
        """How many times as fast steps would be where sums took no time."""
        return self.seconds / max(self.seconds - self.network, 1e-9)

    @property
    def one_more(self) -> float:
        """How many times as fast at most with one more worker: input and computing are divided, waiting for the network stays."""
        divided = (self.input + self.computing) * self.workers / (self.workers + 1)
        return self.seconds / max(divided + self.network + self.ranks, 1e-9)

    @property
    def sentence(self) -> str:
        """For people: where a step's time went, and what would help."""
        parts = {
            "computing": self.computing,
            "waiting for the network": self.network,
            "waiting for other workers": self.ranks,
            "waiting for input": self.input,
        }
        told = ", ".join(f"{share / self.seconds:.0%} {name}" for name, share in parts.items())
        crowded = 0 < self.cores < self.here
        more = (
            f"one more worker on this machine nothing, whose {self.cores} cores {self.here} share"
            if crowded
            else f"one more worker at most {self.one_more:.2f} times"
        )
        largest = max(parts, key=lambda name: parts[name])
        best = f"The best network would make it {self.best_network:.2f} times as fast"
        return f"A step (of one batch) took {1e3 * self.seconds:.3g} ms: {told}. {best}, {more}{_CURES[largest]}."


_CURES = {
    "computing": "",
    "waiting for the network": "; larger batches, or SWITCHML_WIRE=int16, send less for as much work",
    "waiting for other workers": "; the slowest one decides, and what else runs beside it",
    "waiting for input": "; neither helps much before the DataLoader does (num_workers)",
}


def on_copies(packets: int, sent_again: int, needless: int) -> str:
    """What packets that were sent again tell, in a sentence; "" for a few.

    Args:
        packets: that came to the switches.
        sent_again: those that workers sent again.
        needless: of them, copies of what had come, which a switch dropped.
    """
    if not sent_again or sent_again < _COPIES * packets:
        return ""
    needed = max(0, sent_again - needless)
    text = f"{sent_again:,} packets, {sent_again / max(packets, sent_again):.1%}, were sent again"
    if needed >= _LOSSY * packets:
        return (
            f"{text}, {needed:,} of them because the network had lost packets or results; `switchml doctor` tells on which way "
            "they are lost."
        )
    return (
        f"{text} for nothing, since the first had arrived: results were late and not lost, because they wait in a queue on the "
        "way, or for a rank that is late."
    )


def on_the_link(workers: float) -> str:
    """What it means that so many workers of other hosts send over one link to a switch, in a sentence; "" for nothing."""
    if workers <= 1:
        return ""
    return (
        f"The packets of {workers:g} workers on other hosts pass one link to the switch: unless it is {workers:g} times as fast "
        "as theirs it limits the job, and a switch on each host (none named) does better."
    )


def rate(bits: float) -> str:
    """Bit/s for people."""
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits >= size:
            return f"{bits / size:.3g} {unit}" if bits < 1000 * size else f"{bits / size:.0f} {unit}"
    return f"{bits / 1e3:.3g} kbit/s"
