"""Network namespaces without names.

A namespace lives as long as something refers to it: here one file descriptor and the processes and sockets
inside. Nothing appears under /run/netns, so nothing is left there when this process is killed: the kernel removes
the namespace, and every interface in it, with the last reference. To look into one from a shell:
`nsenter --net=/proc/PID/fd/FD`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from switchml.closing import Closing
from switchml.errors import TestbedError

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
STOP_SECONDS = 5.0

_libc = ctypes.CDLL(None, use_errno=True)  # os.setns and os.unshare exist from Python 3.12 only


def _check(result: int, call: str) -> None:
    if result == 0:
        return
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.EACCES):
        raise TestbedError(
            f"{call}: {os.strerror(code)}; network namespaces need root: use sudo, "
            "or run the command under `unshare --user --map-root-user --net`"
        )
    raise TestbedError(f"{call}: {os.strerror(code)}")


def _in_thread(body: Callable[[], T]) -> T:
    """Run `body` in a thread of its own: entering a namespace moves one thread, which then ends."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(body())
        except BaseException as error:  # carried over to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="switchml-namespace", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _create() -> int:
    _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Namespace(Closing):
    """A network namespace of its own, with the loopback interface down and no other. A context manager.

    Raises:
        TestbedError: the process may not create one.
    """

    def __init__(self, label: str = "") -> None:
        self.label = label
        self._fd = _in_thread(_create)
        self._children: list[subprocess.Popen[Any]] = []

    @classmethod
    def of_process(cls, pid: int, label: str = "") -> Namespace:
        """The namespace that a process is in. Closing lets go of it; whoever made it keeps it.

        Raises:
            TestbedError: the process is gone, or another user's.
        """
        found = cls.__new__(cls)
        found.label = label
        found._children = []
        try:
            found._fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise TestbedError(f"the network namespace of process {pid}: {error.strerror}") from error
        return found

    @property
    def fd(self) -> int:
        """The descriptor that holds the namespace; -1 once closed."""
        return self._fd

    @property
    def path(self) -> str:
        """Where another process may open the namespace."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """`function(*args)` inside the namespace. Sockets it opens stay there; the caller does not move.

        Raises:
            TestbedError: the namespace is closed.
        """
        if self._fd < 0:
            raise TestbedError(f"namespace {self.label or '?'} is closed")

        def body() -> T:
            _check(_libc.setns(self._fd, CLONE_NEWNET), "setns")
            return function(*args)

        return _in_thread(body)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process inside the namespace (options as for `subprocess.Popen`). `close` ends it."""
        child: subprocess.Popen[Any] = self.call(lambda: subprocess.Popen(list(argv), **options))
        self._children.append(child)
        return child

    def run(
        self, argv: Sequence[str], *, timeout: float = 60.0, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program to its end inside the namespace (options as for `subprocess.run`)."""
        return self.call(lambda: subprocess.run(list(argv), timeout=timeout, **options))

    def close(self) -> None:
        """End the processes started here and let go of the namespace. Idempotent."""
        for child in self._children:
            if child.poll() is None:
                child.terminate()
        for child in self._children:
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(STOP_SECONDS)
        self._children.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        return f"Namespace({self.label!r}, fd={self._fd})"
