"""Programs that find torch, our backend and the compiled loops loaded: forked from a process that did it once, which takes a
tenth of the time.

Each still runs in a process of its own, from its file, with arguments and environment of its own. What torch reads from the
environment while it is imported is the template's; what the end of `import torch` does for us, each program does again.

`Template.environment` does the same for whatever is started below: torchrun's ranks, those in namespaces. Python then begins as
usual, and hands its program over (handing_over/sitecustomize.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
_LARGEST = 1 << 20  # bytes of a request: arguments and environment
_HANDING_OVER = str(Path(__file__).with_name("handing_over"))


class Template:
    """The process that has imported torch. A context manager; it also ends with this process."""

    def __init__(self, *modules: str) -> None:
        """Modules to import besides, where they are installed."""
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._folder = tempfile.TemporaryDirectory()
        path = f"{self._folder.name}/template"
        self.environment = {"SWITCHML_TEST_TEMPLATE": path, "PYTHONPATH": _HANDING_OVER}
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as meeting:
            meeting.bind(path)
            meeting.listen()
            descriptors = [theirs.fileno(), meeting.fileno()]
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, *map(str, descriptors), *modules],
                pass_fds=descriptors,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def start(self, program: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        """Run a file with arguments, with pipes for what it says."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.popen([sys.executable, "-P", *program], env=environment, text=True, **pipes)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """As `subprocess.Popen` of this interpreter, "-P", and a file or "-m" and a module, with arguments.

        Raises:
            ChildProcessError: the template has ended.
        """
        assert command[:2] == [sys.executable, "-P"], command
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            if options.get(name) is None:
                options[name] = descriptor
        options.setdefault("env", dict(os.environ))
        return _Forked(self, command, options)

    def fork(self, request: Any, descriptors: Sequence[int]) -> int:
        """The pid of a new child of this process."""
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that we inherit it from the one that forks and ends
        try:
            socket.send_fds(self._link, [json.dumps(request).encode()], descriptors)
            answer = self._link.recv(_LARGEST)
        except ConnectionError:
            answer = b""
        finally:
            prctl(_PR_SET_CHILD_SUBREAPER, 0)
        if not answer:
            raise ChildProcessError("the process to fork from has ended")
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()
        self._process.wait()
        self._folder.cleanup()


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


def _forked(link: socket.socket, meeting: socket.socket) -> list[str]:
    """Returns in each child: what it is to run. The template itself ends in here."""
    monitors: set[int] = set()
    while True:
        monitors -= {pid for pid in monitors if os.waitpid(pid, os.WNOHANG)[0]}
        ready, _, _ = select.select([link, meeting], [], [])
        if link not in ready:
            connection, _ = meeting.accept()
            monitor = os.fork()
            if monitor == 0:
                link.close()
                meeting.close()
                return _handed_over(connection)
            monitors.add(monitor)
            connection.close()
            continue
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
            meeting.close()
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


def _handed_over(connection: socket.socket) -> list[str]:
    """Returns in the process of a program that was handed over. Its parent, in here, tells how it ends, and ends it with whoever
    handed it over.
    """
    message, descriptors, _, _ = socket.recv_fds(connection, _LARGEST, 4)
    if not message:
        os._exit(1)
    request = json.loads(message)
    monitor = os.getpid()
    child = os.fork()
    if child:
        for descriptor in descriptors:
            os.close(descriptor)
        _watch(child, connection)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != monitor:
        os._exit(1)
    connection.close()
    os.setsid()
    _enter(request["spaces"], request["pid"])
    os.fchdir(descriptors[3])
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.reconfigure(line_buffering=os.isatty(1), write_through=request["unbuffered"])  # type: ignore[union-attr]
    environment, words = request["environment"], list(request["words"])
    os.environ.clear()
    os.environ.update(environment)
    first = [] if request["safe_path"] or words[0].endswith(".py") else [os.getcwd()]
    sys.path[:0] = [*first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return words


def _watch(child: int, connection: socket.socket) -> None:
    """Pass signals on until the child has ended. Never returns."""
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            break
        number = connection.recv(1)
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:
            break
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.send(str(status).encode())
    os._exit(0)


def _enter(spaces: dict[str, str], pid: int) -> None:
    """The namespaces of a process, where they are others."""
    libc = ctypes.CDLL(None, use_errno=True)
    others = [name for name, space in spaces.items() if os.readlink(f"/proc/self/ns/{name}") != space]
    opened = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in others]
    for descriptor in opened:
        if libc.setns(descriptor, 0):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(descriptor)


def _run(words: list[str]) -> None:
    sys.argv = words
    as_asked()
    if words[0] == "-m":
        del words[0]
        sys.modules.pop(words[0], None)  # it would warn
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        program = compile(words.pop(1), "<string>", "exec")
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(program, vars(module))
    else:
        sys.path.insert(0, os.path.dirname(words[0]))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    import sklearn.datasets  # noqa: F401
    import torch._dynamo  # DistributedDataParallel imports it
    import torch.distributed.run  # noqa: F401

    import switchml.switch_emulator.cli
    import switchml.torch_backend.process_group  # noqa: F401
    from switchml.switch_emulator.native_target import prepare_pipeline
    from switchml.torch_backend.autoload import as_asked
    from switchml.worker.worker import prepare_engine

    for transport in ("memory", "udp"):
        prepare_engine(transport)
    prepare_pipeline()
    for module in sys.argv[3:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()  # or each that ends would go through all of torch
    _run(_forked(*(socket.socket(fileno=int(word)) for word in sys.argv[1:3])))
