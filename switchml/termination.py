"""Signals that end a program: it takes down what it started. What its caller ignores stays ignored."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

_AGAIN_SECONDS = 0.1


class _Told(SystemExit):
    """SIGTERM came."""


def listen(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]
) -> dict[int, Callable[[int, FrameType | None], Any] | int | None]:
    """Have `handler` called at these signals, except those that our caller ignores: nohup, a shell's background job.

    Returns:
        What handled each of them before.
    """
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def _within(frame: FrameType | None, code: CodeType) -> bool:
    """Whether the frame runs that code, or is called by it."""
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Let SIGTERM end the block by `SystemExit(143)`; once: the clean-up that follows is not disturbed by another one.

    For the main thread, and blocks that do not fork: a forked child's signals would count as ours.
    """
    # One handler that raises is not enough. A signal between the interpreter's last look and a call that blocks is seen only
    # when the call returns, and an exception raised inside a finalizer or a callback from C is dropped. The interpreter
    # writes every signal's number to the wake-up descriptor at once; a thread there sends it again until it has been taken.
    # In the hook for dropped exceptions nothing is raised: that would be dropped without a word.
    main = threading.get_ident()
    inside, told, late = True, False, False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal told, late
        if not inside:
            late = True
        elif not told and not _within(frame, dropped.__code__):
            told = True
            raise _Told(128 + number)

    def dropped(what: Any) -> None:
        nonlocal told
        if isinstance(what.exc_value, _Told):
            told = False
            writer.send(bytes([signal.SIGTERM]))
        else:
            hook_before(what)

    def insist() -> None:
        while number := reader.recv(1):
            while number[0] == signal.SIGTERM and inside and not told:
                signal.pthread_kill(main, signal.SIGTERM)
                time.sleep(_AGAIN_SECONDS)

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    with reader, writer:
        thread = threading.Thread(target=insist, name="switchml-termination", daemon=True)
        thread.start()
        hook_before, sys.unraisablehook = sys.unraisablehook, dropped
        before = listen([signal.SIGTERM], end)
        wakeup_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            inside = False
            signal.set_wakeup_fd(wakeup_before)
            writer.shutdown(socket.SHUT_WR)
            thread.join()
            for number, handler in before.items():
                signal.signal(number, handler)
            sys.unraisablehook = hook_before
    if late and not told:
        signal.raise_signal(signal.SIGTERM)
