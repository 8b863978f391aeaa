"""System calls for compiled code, by the C library's names.

An `ExternalFunction` is resolved by name, so functions that call it can be cached on disk, which a ctypes pointer prevents.
Compiled only: with `NUMBA_DISABLE_JIT=1` the loops that do I/O do not run, the state machines inside them do.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from switchml.link.memory import bytes_at
from switchml.protocol.jit import compiled

Longs = npt.NDArray[np.int64]

_int, _long = types.intc, types.intp


def _external(name: str, result: Any, *arguments: Any) -> Any:
    return types.ExternalFunction(name, result(*arguments))


recvmmsg = _external("recvmmsg", _int, _int, _long, _int, _int, _long)
sendmmsg = _external("sendmmsg", _int, _int, _long, _int, _int)
ppoll = _external("ppoll", _int, _long, _long, _long, _long)
sched_yield = _external("sched_yield", _int)
c_write = _external("write", _long, _int, _long, _long)
c_send = _external("send", _long, _int, _long, _long, _int)
c_read = _external("read", _long, _int, _long, _long)
_clock_gettime = _external("clock_gettime", _int, _int, _long)
_errno_location = _external("__errno_location", _long)
_syscall = _external("syscall", _long, _long, _long, _long, _long, _long, _long, _long)

MSG_DONTWAIT = 0x40
MSG_NOSIGNAL = 0x4000
EAGAIN = 11
EINTR = 4
EIO = 5
EINVAL = 22
EMSGSIZE = 90
ECONNREFUSED = 111
POLLIN = 1
POLLOUT = 4

_CLOCK_REALTIME = 0
_CLOCK_MONOTONIC = 1
_FUTEX_WAIT = 0
_FUTEX_WAKE = 1
_ALL = 0x7FFFFFFF
_SYS_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}.get(
    os.uname().machine, 202
)


@compiled
def monotonic_ns(scratch: Longs) -> int:
    """CLOCK_MONOTONIC in nanoseconds; `scratch` is two int64 of the caller's."""
    _clock_gettime(_CLOCK_MONOTONIC, scratch.ctypes.data)
    return int(scratch[0] * 1_000_000_000 + scratch[1])


@compiled
def realtime_ns(scratch: Longs) -> int:
    """Nanoseconds since 1970; `scratch` is two int64 of the caller's."""
    _clock_gettime(_CLOCK_REALTIME, scratch.ctypes.data)
    return int(scratch[0] * 1_000_000_000 + scratch[1])


@compiled
def errno() -> int:
    """Why the last call of this thread failed."""
    return int(bytes_at(_errno_location(), 4).view(np.int32)[0])


@compiled
def pause(duration_ns: int, scratch: Longs) -> None:
    """Sleep for that long; `scratch` is two int64 of the caller's."""
    scratch[0] = duration_ns // 1_000_000_000
    scratch[1] = duration_ns % 1_000_000_000
    ppoll(0, 0, scratch.ctypes.data, 0)


@compiled
def futex_wait(address: int, expected: int, timeout_ns: int, scratch: Longs) -> None:
    """Sleep until woken, unless the 32-bit word at `address` is not `expected` (its low 32 bits) any more."""
    scratch[0] = timeout_ns // 1_000_000_000
    scratch[1] = timeout_ns % 1_000_000_000
    _syscall(_SYS_FUTEX, address, _FUTEX_WAIT, expected & 0xFFFFFFFF, scratch.ctypes.data, 0, 0)


@compiled
def futex_wake_all(address: int) -> None:
    """Wake all that sleep on the 32-bit word at `address`."""
    _syscall(_SYS_FUTEX, address, _FUTEX_WAKE, _ALL, 0, 0, 0)
