"""torch's launcher as a child process: signals are passed on to it, and it cannot outlive us."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from typing_extensions import override

from switchml import termination
from switchml.closing import Closing
from switchml.errors import UsageError
from switchml.launch import stragglers

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL = 0.1
# A process of its own, which then becomes the command: a function of ours between fork and exec would run beside gRPC's threads.
_ENDS_WITH_PARENT = """
import ctypes, os, signal, sys
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Training(Closing):
    """A running launcher with its workers; a context manager, which leaves none of their processes behind."""

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        *,
        grace: float = 10.0,
        piped: Sequence[int] = (),
    ) -> None:
        """Start the launcher.

        Args:
            command: program and arguments.
            environment: variables added to our own.
            grace: seconds that it has to end after the first signal; the second signal ends it at once.
            piped: which of its outputs (1, 2) come through pipes.

        Raises:
            UsageError: it did not start.
        """
        self._mark = stragglers.new_mark()
        self._grace = grace
        self._deadline: float | None = None
        self._signal: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._previous = termination.listen(FORWARDED, self._on_signal)
        try:
            self.process = self._process = self._start(command, environment, piped)
        except OSError as error:
            self._restore_handlers()
            raise UsageError(f"{command[0]} did not start: {error.strerror}") from error
        if self._signal is not None:
            self.process.send_signal(self._signal)

    def _start(
        self, command: Sequence[str], environment: dict[str, str], piped: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _ENDS_WITH_PARENT, str(os.getpid()), *command],
            env={**os.environ, **environment, stragglers.VARIABLE: self._mark},
            stdout=subprocess.PIPE if 1 in piped else None,
            stderr=subprocess.PIPE if 2 in piped else None,
            start_new_session=True,  # the terminal's Ctrl-C comes to us alone; we pass it on
        )

    @override
    def close(self) -> None:
        try:
            if self.process.poll() is None or self._signal is not None or self.process.returncode < 0:
                stragglers.end_marked(self._mark)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
        finally:
            self._restore_handlers()

    def wait(self, every: float, tick: Callable[[], None]) -> int:
        """Wait for the end.

        Args:
            every: seconds between ticks.
            tick: called now and then; must be short, for what a signal sets off waits for it.

        Returns:
            The exit code; 128 + N after signal N.
        """
        due = time.monotonic() + every
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(_POLL)
                break
            now = time.monotonic()
            if self._deadline is not None and now > self._deadline:
                stragglers.end_marked(self._mark)
                self._deadline = None
            if now >= due:
                tick()
                due = max(due + every, now)
        if self._signal is not None:
            return 128 + self._signal
        return code if code >= 0 else 128 - code

    def _restore_handlers(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._deadline = number, now + self._grace
            if self._process is not None:
                self._process.send_signal(number)
        else:
            self._deadline = now
