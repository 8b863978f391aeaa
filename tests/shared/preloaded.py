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
        """Run a file with arguments, with pipes for what it says."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.popen([sys.executable, "-P", *program], env=environment, text=True, **pipes)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """As `subprocess.Popen` of this interpreter, "-P", and a file or "-m" and a module, with arguments."""
        assert command[:2] == [sys.executable, "-P"], command
        return _Forked(self, command, options)

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


class _Forked(subprocess.Popen[Any]):
    def __init__(self, template: Template, command: Sequence[str], options: dict[str, Any]) -> None:
        self._template = template
        super().__init__(command, **options)

    def _execute_child(self, args: Any, *more: Any) -> None:
        """In the place of fork and exec."""
        environment, pipes, new_session = more[5], more[9:15], more[20]
        self.pid = self._template.fork([args[2:], environment, new_session], [pipes[0], pipes[3], pipes[5]])
        self._child_created = True
        self._close_pipe_fds(*pipes)


def _forked(link: socket.socket) -> list[str]:
    """Returns in each child: what it is to run. The template itself ends in here."""
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
            program, environment, new_session = json.loads(request)
            os.environ.clear()
            os.environ.update(environment)
            sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
            if new_session:
                os.setsid()
            return list(program)
        for descriptor in (writing, *descriptors):
            os.close(descriptor)
        os.waitpid(between, 0)  # from now on the child is that of the process that asked
        link.send(os.read(reading, 100))
        os.close(reading)


if __name__ == "__main__":
    import numba  # noqa: F401
    import torch._dynamo  # noqa: F401  # DistributedDataParallel imports it

    gc.freeze()  # or each that ends would go through all of torch
    sys.argv = _forked(socket.socket(fileno=int(sys.argv[1])))
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(sys.argv[0]))
        runpy.run_path(sys.argv[0], run_name="__main__")
