"""Compile the big loops before they are needed, once on a machine however many processes start together."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from switchml.protocol.jit import DISABLED

_PATIENCE = 180.0
_LOOK = 0.1
_SILENT = 3.0


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Hold a lock that the kernel frees when this process ends, and that is no file: an abstract socket's name."""
    deadline = time.monotonic() + _PATIENCE
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        while time.monotonic() < deadline:
            try:
                lock.bind(f"\0switchml-compile-{os.getuid()}-{name}")
                break
            except OSError:
                time.sleep(_LOOK)
        yield


def _tell(name: str) -> None:
    print(
        f"switchml: compiling the {name} for this machine; this happens once and takes about half a minute",
        file=sys.stderr,
        flush=True,
    )


def prepare(function: Any, name: str, *arguments: Any) -> None:
    """Compile `function` for arguments like these, or load it from the cache. Says so on stderr when it takes long."""
    if DISABLED:
        return
    import numba

    typeof: Any = numba.typeof

    notice = threading.Timer(_SILENT, _tell, (name,))
    notice.daemon = True
    with _alone(name.replace(" ", "-")):
        notice.start()
        try:
            function.compile(tuple(typeof(argument) for argument in arguments))
        finally:
            notice.cancel()
