"""Programs that find torch and numba imported: forked from a process that did it once, which takes a tenth of the time.

Each still runs in a process of its own, from its file, with arguments and environment of its own. What torch reads from the
environment while it is imported is the template's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

_PR_SET_CHILD_SUBREAPER = 36
_LARGEST = 1 << 20  # bytes of a request: arguments and environment


class Template:
    """The process that has imported torch. A context manager; it also ends with this process."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def start(self, program: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        """Run a file with arguments. As any child of ours, it can be waited for; output goes through pipes."""
        return _Forked(self, program, environment)

    def fork(self, request: Any, descriptors: Sequence[int]) -> int:
        """The pid of a new child of this process."""
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that we inherit it from the one that forks and ends
        try:
            socket.send_fds(self._link, [json.dumps(request).encode()], descriptors)
            return int(self._link.recv(_LARGEST))
        finally:
            prctl(_PR_SET_CHILD_SUBREAPER, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()
        self._process.wait()


class _Forked(subprocess.Popen[str]):
    def __init__(self, template: Template, program: Sequence[str], environment: dict[str, str]) -> None:
        self._template = template
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        super().__init__(program, env=environment, text=True, **pipes)

    def _execute_child(self, args: Any, *more: Any) -> None:
        """In the place of fork and exec."""
        environment, pipes = more[5], more[9:15]
        self.pid = self._template.fork([args, environment], [pipes[0], pipes[3], pipes[5]])
        self._child_created = True
        self._close_pipe_fds(*pipes)


def _forked(link: socket.socket) -> tuple[list[str], dict[str, str]]:
    """Returns in each child: what it is to run, and its environment. The template itself ends in here."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(link, _LARGEST, 3)
        if not request:
            sys.exit()
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            if child := os.fork():
                os.write(writing, str(child).encode())
                os._exit(0)
            link.close()
            os.close(reading)
            os.close(writing)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            program, environment = json.loads(request)
            return program, environment
        for descriptor in (writing, *descriptors):
            os.close(descriptor)
        os.waitpid(between, 0)  # from now on the child is that of the process that asked
        link.send(os.read(reading, 100))
        os.close(reading)


if __name__ == "__main__":
    import numba  # noqa: F401
    import torch._dynamo  # noqa: F401  # DistributedDataParallel imports it

    gc.freeze()  # or each that ends would go through all of torch
    sys.argv, fresh = _forked(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(fresh)
    runpy.run_path(sys.argv[0], run_name="__main__")
