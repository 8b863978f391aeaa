"""What a link of a testbed does to packets."""

from __future__ import annotations

from dataclasses import dataclass

from switchml.errors import TestbedError

# The longest train of a UDP or TCP segmentation offload is 64 KiB of payload and up to 64 headers. A bucket
# that holds it lets tbf pass it whole; a smaller one makes the kernel cut every train into packets.
TRAIN_BYTES = 72 * 1024
QUEUE_BYTES = 256 * 1024
LEAST_QUEUE_BYTES = 1600


@dataclass(frozen=True)
class LinkShape:
    """What every link of a network does, in both directions.

    Attributes:
        rate: bits a second, counted by tbf over Ethernet frames without preamble, checksum and gap; 0 = unshaped.
        burst: bytes that may pass at once after idling: the figures of a run shorter than some hundred bursts are
            flattered by burst / bytes. Below `TRAIN_BYTES` segmentation trains are cut. At most a quarter of the queue.
        queue: bytes that may wait; what comes on top is dropped. A port of a switch has 64 KiB to some MiB.
        loss: probability that a packet entering an interface is dropped (each direction on its own).
        delay: seconds added to each direction. A star without the kernel's netem needs TAP interfaces for it (delay_line.py).

    Raises:
        TestbedError: a value cannot be used.
    """

    rate: int = 0
    burst: int = TRAIN_BYTES
    queue: int = QUEUE_BYTES
    loss: float = 0.0
    delay: float = 0.0

    def __post_init__(self) -> None:
        if self.rate < 0 or self.burst <= 0 or self.queue < LEAST_QUEUE_BYTES:
            raise TestbedError(
                f"{self}: the rate must not be negative and the queue must hold {LEAST_QUEUE_BYTES} bytes, an Ethernet frame"
            )
        if self.rate // 8 > 0xFFFF_FFFF:
            raise TestbedError(f"{self.rate} bit/s: rates above 34 Gbit/s are not supported")
        if not 0.0 <= self.loss < 1.0:
            raise TestbedError(f"loss {self.loss}: give a probability of at least 0 and below 1")
        if self.delay < 0.0:
            raise TestbedError(f"delay {self.delay}: give seconds")
