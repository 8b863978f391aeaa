"""Compile the big loops before they are needed, once in an installation however many processes start together."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from numba.core import event

from switchml.protocol.compiling_signs import tell
from switchml.protocol.jit import DISABLED, cache_folder

_PATIENCE = 180.0
_LOOK = 0.1
_SILENT = 2.0
_LINE_EVERY = 5.0  # where stderr is no terminal


class _Progress(event.Listener):
    """Says on stderr that functions are compiled, once it takes long, and then how many: often to a terminal, else in a line
    now and then.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin = time.monotonic()
        self._said = 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._clock: threading.Thread | None = None
        self.functions = 0

    def on_start(self, event: Any) -> None:
        self.functions += 1
        tell()
        if self._clock is None:
            # The last step, machine code of all functions together, is as long as all before it, and has no events.
            self._clock = threading.Thread(target=self._look_often, name="switchml-progress", daemon=True)
            self._clock.start()
        self._look()

    def on_end(self, event: Any) -> None:
        """Nothing to say at the end of one function."""

    def close(self) -> None:
        """Say what came of it, where something was said before."""
        self._over.set()
        if self._clock is not None:
            self._clock.join()
        if self._said:
            self._say(f"compiled {self.functions} functions in {self._seconds():.0f} s", "\n")

    def _look_often(self) -> None:
        while not self._over.wait(_LOOK):
            self._look()

    def _look(self) -> None:
        with self._lock:
            terminal = sys.stderr.isatty()
            now = time.monotonic()
            if not self._said:
                if self._seconds() < _SILENT:
                    return
                self._say(
                    f"compiling the {self._name} for this machine, once; this takes ten seconds or more", "\n"
                )
            elif now - self._said >= (0.0 if terminal else _LINE_EVERY):
                told = f"the {self._name}: {self.functions} functions, {self._seconds():.0f} s"
                self._say(told, "\r" if terminal else "\n")
            else:
                return
            self._said = now

    def _seconds(self) -> float:
        return time.monotonic() - self._begin

    def _say(self, what: str, end: str) -> None:
        print(f"switchml: {what}", end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _alone(folder: str | None) -> Iterator[None]:
    """Hold a lock beside the machine code. The kernel frees it when this process ends, and who cannot have it goes on without."""
    try:
        file = os.open(f"{folder}/switchml-compile.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # another user's, or no folder
        yield
        return
    try:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                tell()
                time.sleep(_LOOK)
        yield
    finally:
        os.close(file)


def prepare(function: Any, name: str, *arguments: Any) -> int:
    """Compile `function` for arguments like these, or load it from the cache; what it calls as well.

    Args:
        function: made by `jit.compiled`.
        name: what it is called in a notice on stderr, which is given when something has to be compiled and that takes long.
        arguments: of the types that it will be called with.

    Returns:
        How many functions were compiled: 0 when all came from the cache.
    """
    if DISABLED:
        return 0
    import numba

    typeof: Any = numba.typeof
    types = tuple(typeof(argument) for argument in arguments)
    if types in function.overloads:
        return 0
    progress = _Progress(name)
    try:
        with _alone(cache_folder(function)), event.install_listener("numba:compile", progress):
            function.compile(types)
    finally:
        progress.close()
    return progress.functions
