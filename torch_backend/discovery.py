"""How the ranks of a group agree on switches and a job, through torch's rendezvous store.

Group rank 0 decides: the switches of the options or of SWITCHML_SWITCH, else embedded ones, one on each host of the group, which
the first rank there names: the one its process knows, else one that it starts. Then all wait until everybody is there, so that
joining the job, which has a short deadline, does not have to bear with ranks that are still loading their data.
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import Store

from switchml import errors
from switchml.control.named_switches import parse_switches
from switchml.errors import JoinError, JoinTimeoutError, SwitchMLError, SwitchUnreachableError
from switchml.torch_backend.embedded_switch import EmbeddedSwitches, SwitchAddress
from switchml.torch_backend.host_address import Hosts
from switchml.torch_backend.options import Options
from switchml.torch_backend.rendezvous import gather_ranks, wait_for_keys

_DECISION = "switch"


_found: dict[str, tuple[int, ...]] = {}


@dataclass(frozen=True)
class Placement:
    """A rank's place: which switches, which job, which rank of how many, and whether these are all on one host."""

    switches: tuple[SwitchAddress, ...]
    job: str
    rank: int
    world_size: int
    one_host: bool = True

    @property
    def addresses(self) -> str:
        """Of all switches, with commas between them."""
        return ",".join(switch.address for switch in self.switches)


def remember_shares(placement: Placement, shares: tuple[int, ...]) -> None:
    """The shares that a job found for its switches, so that the next groups over them need not measure."""
    _found[placement.addresses] = shares


def find_switches(
    store: Store,
    rank: int,
    world_size: int,
    *,
    group: str,
    options: Options,
    hosts: Callable[[], Hosts],
    timeout: float,
    embedded: EmbeddedSwitches,
    given_up: threading.Event | None = None,
) -> Placement:
    """Agree with the other ranks; returns when all have come. Embedded switches have to be released by the caller.

    Args:
        store: of this group and this incarnation of it alone.
        rank: this process's in the group.
        world_size: ranks of the group.
        group: the group's name, part of the job's name.
        options: of the group; those of rank 0 count.
        hosts: of the group, for embedded switches.
        timeout: seconds to wait for the other ranks.
        embedded: the switches that this process runs.
        given_up: waits no longer once it is set.

    Raises:
        JoinTimeoutError: ranks are missing; the message names them.
        SwitchMLError: what kept a rank from finding or starting a switch, on every rank.
    """
    deadline = time.monotonic() + timeout

    def heard(key: str, of: int) -> dict[str, Any]:
        return _heard(store, key, of, deadline, timeout, given_up)

    if rank == 0:
        _tell(store, _DECISION, lambda: _decide(group, options, hosts))
    decision = heard(_DECISION, 0)
    switches = [SwitchAddress(**named, embedded=False) for named in decision["named"]]
    taken: list[SwitchAddress] = []

    def offer() -> dict[str, str]:
        switch = _start(rank, options, hosts, embedded)
        taken.append(switch)
        return {"address": switch.address, "token": switch.token}

    try:
        if rank in decision["starters"]:
            _tell(store, _offered(rank), offer)
        for starter in decision["starters"]:
            switches.append(SwitchAddress(**heard(_offered(starter), starter), embedded=True))
            if starter != rank:
                embedded.adopt(switches[-1])
                taken.append(switches[-1])
        gather_ranks(store, rank, world_size, timeout, deadline=deadline, given_up=given_up)
    except BaseException:
        embedded.release(*taken)
        raise
    return Placement(tuple(switches), decision["job"], rank, world_size)


def _decide(group: str, options: Options, hosts: Callable[[], Hosts]) -> dict[str, Any]:
    named = parse_switches(options.switch) if options.switch else ()
    shares: Sequence[int | None] = [one.share for one in named]
    if not any(shares):
        shares = _found.get(",".join(one.address for one in named), shares)
    return {
        "named": [
            {"address": one.address, "token": options.token, "share": share}
            for one, share in zip(named, shares, strict=True)
        ],
        "starters": [] if named else hosts().first_ranks(),
        # Two runs against one switch may have equal group names.
        "job": f"{_program()}-{group[:32]}-{secrets.token_hex(6)}",
    }


def _program() -> str:
    """What the job is called by: the script, or module, that this process runs."""
    name = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in ("-c", "-m") else ""
    return "".join(each if each.isprintable() else "?" for each in name[:32]) or "torch"


def _start(
    rank: int, options: Options, hosts: Callable[[], Hosts], embedded: EmbeddedSwitches
) -> SwitchAddress:
    address = hosts().address_of(rank)
    if not address:
        raise SwitchUnreachableError(
            f"no address of rank {rank}'s host is in a network with the others' hosts, so an embedded switch cannot be placed; "
            "start one with `switchml switch` and set SWITCHML_SWITCH=host:port on rank 0"
        )
    return embedded.acquire(address, options.tls, keep_alive=options.recover > 0)


def _offered(rank: int) -> str:
    return f"switch/{rank}"


def _tell(store: Store, key: str, make: Callable[[], dict[str, Any]]) -> None:
    """Tell the others what `make` returns, or what it raises, which is raised here, too."""
    try:
        said = make()
    except Exception as error:
        store.set(key, json.dumps({"error": type(error).__name__, "message": str(error)}))
        raise
    store.set(key, json.dumps(said))


def _heard(
    store: Store, key: str, rank: int, deadline: float, timeout: float, given_up: threading.Event | None
) -> dict[str, Any]:
    """What that rank told; raises what it raised."""
    if not wait_for_keys(store, [key], deadline, given_up):
        raise JoinTimeoutError(
            f"rank {rank} of the group has not named a switch within its timeout of {timeout:.0f} s; see whether it is running "
            "and has reached the creation of this group, or give it more time"
        )
    said: dict[str, Any] = json.loads(store.get(key))
    if "error" in said:
        kind = getattr(errors, said["error"], JoinError)
        raise (kind if issubclass(kind, SwitchMLError) else JoinError)(
            f"rank {rank} of the group has no switch to offer: {said['message']}"
        )
    return said
