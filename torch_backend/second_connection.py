"""A second connection to torch's rendezvous store, for threads beside the program's own.

A store's connection carries one request at a time, and one that waits for a key keeps all others waiting: ranks that meet in a
thread beside, while their programs wait for each other in the store, would wait for ever.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from torch._C._distributed_c10d import Store, TCPStore

_lock = threading.Lock()
_connections: weakref.WeakValueDictionary[tuple[str, int], Store] = weakref.WeakValueDictionary()


def second_connection(store: Store) -> Store:
    """To the store below all prefixes of `store`; shared by whoever asks for it, so nobody may wait inside a request of it."""
    base = getattr(store, "_underlying_non_prefix_store", store)
    if not isinstance(base, TCPStore):
        try:
            return _clone(base)
        except RuntimeError:  # written in Python, without
            return base
    with _lock:
        place = base.host, base.port
        connection = _connections.get(place)
        if connection is None:
            connection = _clone(base)
            _connections[place] = connection
        return connection


def _clone(store: Any) -> Store:
    second: Store = store.clone()
    return second


def _forget() -> None:
    """In a forked child: the connections are its parent's."""
    global _lock
    _lock = threading.Lock()
    _connections.clear()


os.register_at_fork(after_in_child=_forget)
