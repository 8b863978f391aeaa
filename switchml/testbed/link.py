"""Rate, queue, loss and delay of what leaves or enters an interface, through netlink.

Every function here acts on the namespace of the calling thread (`Namespace.call`).
"""

from __future__ import annotations

from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

from switchml.errors import TestbedError
from switchml.testbed.shape import LEAST_QUEUE_BYTES, LinkShape

_LOSS_STEPS = 1_000_000
_ON_THE_WAY = 1_000_000  # packets that netem may hold
_LOOPBACK = 1  # its index, in every namespace

_NFPROTO_NETDEV = 5
_NFT_REGISTER = 8
_NFT_RANDOM = 1
_NFT_HOST_TO_NETWORK = 1
_NFT_LESS = 2
_NFT_EQUAL = 0
_NFT_LINK_HEADER = 0
_INGRESS, _EGRESS = 0, 1
_GROUP_MAC = b"\x01"  # first byte of an IPv4 group's hardware address
_NF_DROP = 0
_NF_ACCEPT = 1


def shape_egress(route: IPRoute, index: int, shape: LinkShape) -> None:
    """Delay and limit what leaves interface `index`.

    Raises:
        TestbedError: a delay is asked for and the kernel has no netem.
    """
    parent: dict[str, Any] = {}
    if shape.delay:
        # Outside, so that the queue inside keeps its length: what is on the way does not count to it.
        try:
            route.tc("add", "netem", index, 0x2_0000, delay=round(shape.delay * 1e6), limit=_ON_THE_WAY)
        except NetlinkError as error:
            raise TestbedError(
                f"a delay needs the kernel module sch_netem, which is missing here ({error}); leave it out"
            ) from error
        parent = {"parent": 0x2_0001}
    if shape.rate:
        # A train counts as one packet: where it is as long as the queue, all of it is dropped or nothing.
        burst = max(LEAST_QUEUE_BYTES, min(shape.burst, shape.queue // 4))
        route.tc(
            "add", "tbf", index, 0x1_0000, rate=shape.rate // 8, burst=burst, limit=shape.queue, **parent
        )


def has_netem() -> bool:
    """Whether this kernel can delay packets."""
    with IPRoute() as route:
        try:
            route.tc("add", "netem", _LOOPBACK, 0x2_0000, delay=1)
        except NetlinkError:
            return False
        route.tc("del", "netem", _LOOPBACK, 0x2_0000)
        return True


def drop_at_random(interface: str, probability: float) -> None:
    """Drop packets that enter `interface` with the given probability (nftables, netdev ingress hook)."""
    with NFTables(nfgen_family=_NFPROTO_NETDEV) as nft:
        chain = _new_chain(nft, "loss", interface, _INGRESS)
        below = round(probability * _LOSS_STEPS).to_bytes(4, "big")
        expressions = [
            _expression(
                "numgen",
                [
                    ("NFTA_NG_DREG", _NFT_REGISTER),
                    ("NFTA_NG_MODULUS", _LOSS_STEPS),
                    ("NFTA_NG_TYPE", _NFT_RANDOM),
                    ("NFTA_NG_OFFSET", 0),
                ],
            ),
            _expression(
                "byteorder",
                [
                    ("NFTA_BYTEORDER_SREG", _NFT_REGISTER),
                    ("NFTA_BYTEORDER_DREG", _NFT_REGISTER),
                    ("NFTA_BYTEORDER_OP", _NFT_HOST_TO_NETWORK),
                    ("NFTA_BYTEORDER_LEN", 4),
                    ("NFTA_BYTEORDER_SIZE", 4),
                ],
            ),
            _expression(
                "cmp",
                [
                    ("NFTA_CMP_SREG", _NFT_REGISTER),
                    ("NFTA_CMP_OP", _NFT_LESS),
                    ("NFTA_CMP_DATA", {"attrs": [("NFTA_DATA_VALUE", below)]}),
                ],
            ),
            _DROP,
        ]
        nft.rule("add", table="switchml", chain=chain, expressions=[expressions])


def drop_groups(interface: str) -> None:
    """Keep what goes to a multicast group from leaving by `interface`.

    (The bridge's own option of a port does not concern what its host itself sends.)
    """
    with NFTables(nfgen_family=_NFPROTO_NETDEV) as nft:
        chain = _new_chain(nft, "groups", interface, _EGRESS)
        expressions = [
            _expression(
                "payload",
                [
                    ("NFTA_PAYLOAD_DREG", _NFT_REGISTER),
                    ("NFTA_PAYLOAD_BASE", _NFT_LINK_HEADER),
                    ("NFTA_PAYLOAD_OFFSET", 0),
                    ("NFTA_PAYLOAD_LEN", 1),
                ],
            ),
            _expression(
                "cmp",
                [
                    ("NFTA_CMP_SREG", _NFT_REGISTER),
                    ("NFTA_CMP_OP", _NFT_EQUAL),
                    ("NFTA_CMP_DATA", {"attrs": [("NFTA_DATA_VALUE", _GROUP_MAC)]}),
                ],
            ),
            _DROP,
        ]
        nft.rule("add", table="switchml", chain=chain, expressions=[expressions])


def _new_chain(nft: NFTables, what: str, interface: str, hook: int) -> str:
    """An empty chain for what enters or leaves an interface; its name."""
    if not _has_table(nft):
        nft.table("add", name="switchml")
    attributes = [("NFTA_HOOK_HOOKNUM", hook), ("NFTA_HOOK_PRIORITY", 0), ("NFTA_HOOK_DEV", interface)]
    name = f"{what}-{interface}"
    nft.chain(
        "add",
        kwarg={
            "table": "switchml",
            "name": name,
            "hook": {"attrs": attributes},
            "type": "filter",
            "policy": _NF_ACCEPT,
        },
    )
    return name


def _has_table(nft: NFTables) -> bool:
    """Whether this namespace already has our table."""
    return any(table.get_attr("NFTA_TABLE_NAME") == "switchml" for table in nft.get_tables())


def _expression(name: str, attributes: list[tuple[str, Any]]) -> dict[str, Any]:
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": attributes})]}


_DROP = _expression(
    "immediate",
    [
        ("NFTA_IMMEDIATE_DREG", 0),
        (
            "NFTA_IMMEDIATE_DATA",
            {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", _NF_DROP)]})]},
        ),
    ],
)
