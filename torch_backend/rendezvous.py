"""Ranks meet in torch's rendezvous store; who does not come is named."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

from torch._C._distributed_c10d import Store

from switchml.errors import JoinTimeoutError

# Seconds between two looks at the store.
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05
# How long a rank that compiles may be silent (one function, on a slow machine).
_COMPILING_SECONDS = 30.0
_COMPILING = "compiling"


def gather_ranks(
    store: Store,
    rank: int,
    world_size: int,
    timeout: float,
    *,
    deadline: float | None = None,
    said: str = "1",
    given_up: threading.Event | None = None,
) -> None:
    """Return when all ranks have called this on `store`.

    Args:
        store: for this meeting alone.
        rank: this process's in the group.
        world_size: ranks of the group.
        timeout: seconds from now.
        deadline: where some of `timeout` have passed already: its end by `time.monotonic`.
        said: for `heard`.
        given_up: waits no longer once it is set.

    Raises:
        JoinTimeoutError: names the missing ranks.
    """
    keys = _keys(world_size)
    store.set(keys[rank], said)
    if wait_for_keys(store, keys, time.monotonic() + timeout if deadline is None else deadline, given_up):
        return
    missing = [str(other) for other, key in enumerate(keys) if not store.check([key])]
    raise JoinTimeoutError(
        f"rank {', '.join(missing)} of {world_size} did not come to the group within its timeout of {timeout:.0f} s; see "
        "whether it is running and creates its groups in the same order, or give it more time"
    )


def heard(store: Store, world_size: int) -> list[bytes]:
    """What the ranks said that have met on `store`."""
    keys = _keys(world_size)
    at_once = store.has_extended_api()  # type: ignore[attr-defined]
    return store.multi_get(keys) if at_once else [store.get(key) for key in keys]


def compiling(store: Store) -> None:
    """A sign to those that wait for keys of `store`: this rank compiles, and will come."""
    with contextlib.suppress(RuntimeError):  # the store is gone: so are they
        store.add(_COMPILING, 1)


def _keys(world_size: int) -> list[str]:
    return [f"here/{rank}" for rank in range(world_size)]


def wait_for_keys(
    store: Store, keys: Sequence[str], deadline: float, given_up: threading.Event | None = None
) -> bool:
    """True once all keys are set, False at the deadline (of `time.monotonic`), which does not count while a rank compiles.

    False as well once `given_up` is set.

    Asks again and again: the store's own wait cannot be interrupted by Ctrl-C and logs when its time is over.
    """
    wanted = list(keys)
    pause, signs = FIRST_PAUSE, 0
    while not store.check(wanted):
        left = deadline - time.monotonic()
        if left <= 0:
            signs, seen = store.add(_COMPILING, 0), signs
            if signs == seen:
                return False
            left = _COMPILING_SECONDS
            deadline = time.monotonic() + left
        if given_up is None:
            time.sleep(min(pause, left))
        elif given_up.wait(min(pause, left)):
            return False
        pause = min(2 * pause, LONGEST_PAUSE)
    return True
