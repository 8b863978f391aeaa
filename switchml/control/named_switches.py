"""The switches of a job, as people name them: one address, or several with a share each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from switchml.control.address import join_address, parse_address
from switchml.errors import UsageError

MAX_SHARE = 1000


@dataclass(frozen=True)
class NamedSwitch:
    """One switch of a job.

    Attributes:
        address: host:port of its control service; with slashes after it those of switches that stand in when it is gone.
        share: how much of a tensor it sums, beside the others' shares; None = 1, or by speed where no switch has one.
        token: its join token, where that is not the same for all; None = as for the others.
    """

    address: str
    share: int | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def first(self) -> str:
        """The switch's own address."""
        return in_turn(self.address)[0]


def parse_switches(text: str) -> tuple[NamedSwitch, ...]:
    """The switches of "HOST:PORT", or of several with commas between them: "a:50551,b:50551*3", where b sums three times as much.

    In "a:50551/c:50551" c stands in for a when that is gone (`Worker.join(recover=)`).

    Raises:
        UsageError: an address, or a share (1 to `MAX_SHARE`), is none; or a switch is named twice.
    """
    return checked([_parse(each) for each in text.split(",")])


def checked(switches: Sequence[NamedSwitch]) -> tuple[NamedSwitch, ...]:
    """The switches, if a job can stand on them.

    Raises:
        UsageError: there are none, or one is named twice.
    """
    if not switches:
        raise UsageError("no switch is named; a job needs one at least")
    addresses = [
        join_address(*parse_address(each)) for switch in switches for each in in_turn(switch.address)
    ]
    twice = sorted({address for address in addresses if addresses.count(address) > 1})
    if twice:
        raise UsageError(
            f"the switch at {twice[0]} is named twice; give it a share instead, as in {twice[0]}*2"
        )
    return tuple(switches)


def in_turn(address: str) -> list[str]:
    """The switch's own address, and those of its stand-ins, in the order in which they are tried."""
    return address.split("/")


def _parse(text: str) -> NamedSwitch:
    address, separator, share = text.strip().partition("*")
    for each in in_turn(address):
        parse_address(each)
    if separator and not (share.isdecimal() and 1 <= int(share) <= MAX_SHARE):
        raise UsageError(
            f"{text.strip()!r}: after the * comes how much the switch sums beside the others, 1 to {MAX_SHARE}"
        )
    return NamedSwitch(address, int(share) if separator else None)
