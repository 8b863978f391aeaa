"""Made-up MAC addresses, for frames that are put around packets that had none: they say who sent a packet and who gets it."""

from __future__ import annotations

from switchml.packets.ethernet import mac_bytes, mac_text
from switchml.protocol.jit import compiled

SWITCH_MAC = "02:53:4d:4c:00:01"
"""Of an emulated switch."""
EVERYONE_MAC = "01:00:5e:00:00:01"
"""Of all workers of a job, where they read the same memory."""
RANK_MAC = "02:52:4b"
"""How a worker's begins, where the job and the rank are known; the job's number and the rank follow."""
_RANK_MAC = int.from_bytes(mac_bytes(RANK_MAC), "big") << 24


@compiled
def rank_mac(job: int, rank: int) -> int:
    """A worker's MAC address, as a number."""
    return _RANK_MAC | job << 16 | rank


def rank_of(mac: bytes) -> int | None:
    """The rank that such an address tells; None = another address."""
    return int.from_bytes(mac[4:], "big") if mac_text(mac[:3]) == RANK_MAC else None
