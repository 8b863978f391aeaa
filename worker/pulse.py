"""Shows over a connection that this process lives, from compiled code: a call of C may hold the GIL for minutes elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from switchml.link import libc
from switchml.link.memory import load_acquire
from switchml.protocol.jit import compiled
from switchml.protocol.prepare import prepare

Longs = npt.NDArray[np.int64]


@compiled
def _beat(descriptor: int, interval_ns: int, stopped: Longs, scratch: Longs) -> None:
    while load_acquire(stopped, 0) == 0:
        sent = libc.c_send(descriptor, scratch.ctypes.data, 1, libc.MSG_DONTWAIT | libc.MSG_NOSIGNAL)
        if sent < 0 and libc.errno() != libc.EAGAIN:
            return  # its owner sees it too
        libc.futex_wait(stopped.ctypes.data, 0, interval_ns, scratch)


@compiled
def _wake(stopped: Longs) -> None:
    libc.futex_wake_all(stopped.ctypes.data)


def prepare_pulse() -> None:
    """Compile, or load what was compiled."""
    words = np.zeros(2, np.int64)
    prepare(_beat, "worker's pulse", 0, 0, words, words)
    prepare(_wake, "worker's pulse", words)


def start_pulse(descriptor: int, interval: float) -> Callable[[], None]:
    """Send a byte at once, and every `interval` seconds from then on.

    Args:
        descriptor: of a connected socket; stays the caller's.
        interval: seconds.

    Returns:
        What ends it; afterwards nobody uses the descriptor.
    """
    stopped, scratch = np.zeros(2, np.int64), np.zeros(2, np.int64)
    thread = threading.Thread(
        target=_beat,
        args=(descriptor, int(interval * 1e9), stopped, scratch),
        name="switchml-pulse",
        daemon=True,
    )
    thread.start()

    def stop() -> None:
        stopped[0] = 1
        _wake(stopped)
        thread.join()

    return stop
