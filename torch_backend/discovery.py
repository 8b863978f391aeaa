"""How the ranks of a group agree on a switch and a job, through torch's rendezvous store.

Group rank 0 decides: the switch of the options or of SWITCHML_SWITCH, else the embedded switch that its process knows,
else one that it starts. Then all wait until everybody is there, so that joining the job, which has a short deadline,
does not have to bear with ranks that are still loading their data.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import dataclass

from torch._C._distributed_c10d import Store

from switchml import errors
from switchml.errors import JoinError, JoinTimeoutError, SwitchMLError, SwitchUnreachableError
from switchml.torch_backend.embedded_switch import EmbeddedSwitches, SwitchAddress
from switchml.torch_backend.options import Options
from switchml.torch_backend.rendezvous import gather_ranks, wait_for_keys

_DECISION = "switch"


@dataclass(frozen=True)
class Placement:
    """A rank's place: which switch, which job, which rank of how many."""

    switch: SwitchAddress
    job: str
    rank: int
    world_size: int


def find_switch(
    store: Store,
    rank: int,
    world_size: int,
    *,
    group: str,
    options: Options,
    host: str,
    timeout: float,
    embedded: EmbeddedSwitches,
    given_up: threading.Event | None = None,
) -> Placement:
    """Agree with the other ranks; returns when all have come. An embedded switch has to be released by the caller.

    Args:
        store: of this group and this incarnation of it alone.
        rank: this process's in the group.
        world_size: ranks of the group.
        group: the group's name, part of the job's name.
        options: of the group; those of rank 0 count.
        host: address by which the others reach rank 0's host, for an embedded switch; "" = none is known.
        timeout: seconds to wait for the other ranks.
        embedded: the switches that this process runs.
        given_up: waits no longer once it is set.

    Raises:
        JoinTimeoutError: ranks are missing; the message names them.
        SwitchMLError: what kept rank 0 from finding or starting a switch, on every rank.
    """
    deadline = time.monotonic() + timeout
    if rank == 0:
        switch, job = _decide(store, group, options, host, embedded)
    else:
        switch, job = _learn(store, deadline, timeout, given_up)
        if switch.embedded:
            embedded.adopt(switch)
    try:
        gather_ranks(store, rank, world_size, timeout, deadline=deadline, given_up=given_up)
    except BaseException:
        embedded.release(switch)
        raise
    return Placement(switch, job, rank, world_size)


def _decide(
    store: Store, group: str, options: Options, host: str, embedded: EmbeddedSwitches
) -> tuple[SwitchAddress, str]:
    try:
        if options.switch:
            switch = SwitchAddress(options.switch, options.token, embedded=False)
        elif host:
            switch = embedded.acquire(host, options.tls)
        else:
            raise SwitchUnreachableError(
                "no address of rank 0's host is in a network with the others' hosts, so an embedded switch cannot be placed; "
                "start one with `switchml switch` and set SWITCHML_SWITCH=host:port on rank 0"
            )
    except Exception as error:
        store.set(_DECISION, json.dumps({"error": type(error).__name__, "message": str(error)}))
        raise
    # Two runs against one switch may have equal group names.
    job = f"torch-{group[:32]}-{secrets.token_hex(6)}"
    decision = {"address": switch.address, "token": switch.token, "embedded": switch.embedded, "job": job}
    store.set(_DECISION, json.dumps(decision))
    return switch, job


def _learn(
    store: Store, deadline: float, timeout: float, given_up: threading.Event | None
) -> tuple[SwitchAddress, str]:
    if not wait_for_keys(store, [_DECISION], deadline, given_up):
        raise JoinTimeoutError(
            f"rank 0 of the group has not named a switch within its timeout of {timeout:.0f} s; see whether it is running "
            "and has reached the creation of this group, or give it more time"
        )
    decision = json.loads(store.get(_DECISION))
    if "error" in decision:
        kind = getattr(errors, decision["error"], JoinError)
        raise (kind if issubclass(kind, SwitchMLError) else JoinError)(
            f"rank 0 of the group has no switch to offer: {decision['message']}"
        )
    switch = SwitchAddress(decision["address"], decision["token"], decision["embedded"])
    return switch, decision["job"]
