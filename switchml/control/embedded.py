"""A switch of one's own: an emulator in a child process that lives as long as this one wants it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import IO

from switchml.closing import Closing
from switchml.control.address import parse_address
from switchml.control.exits import Stage, close_at_exit
from switchml.control.tls import TlsFiles
from switchml.errors import SwitchUnreachableError
from switchml.protocol.compiling_signs import tell

_STARTUP = 120.0  # not counting the time in which it compiles
_SILENT = 5.0
# When this process goes first, the others may finish.
_GRACE = 15.0
_TERMINATE = 3.0
_COMPILES = (
    "switchml: the switch compiles its packet loops for this machine, once; this takes ten seconds or more"
)
_AGAIN = 0.2
_SHOWN = 4000  # characters of the child's stderr


class EmbeddedSwitch(Closing):
    """A running emulator. A context manager.

    It ends by itself when this process does, however that comes about: the pipe on its standard input then closes.

    Attributes:
        address: host:port of its control service.
        token: what it asks of workers.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        address: str,
        token: str,
        log: IO[bytes],
        again: Callable[[], subprocess.Popen[bytes]],
    ) -> None:
        self.address = address
        self.token = token
        self._process = process
        self._log = log
        self._last_words = ""
        self._again = again
        self._lock = threading.Lock()
        self._closed = False
        self._watch: threading.Thread | None = None
        self._owner = os.getpid()
        _running.add(self)

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def running(self) -> bool:
        """Whether it runs, and is this process's own."""
        return os.getpid() == self._owner and self._process.poll() is None

    def keep_alive(self) -> None:
        """From now on start it anew, at the same address, when it ends by itself."""
        if self._watch is None:
            self._watch = threading.Thread(target=self._revive, name="switchml-embedded", daemon=True)
            self._watch.start()

    def _revive(self) -> None:
        while True:
            self._process.wait()
            with self._lock:
                if self._closed:
                    return
                _end(self._process, 0.0)
                with contextlib.suppress(OSError):
                    self._process = self._again()
            try:
                _announced(self._process, _STARTUP)
            except (OSError, ValueError):
                self._process.kill()
                time.sleep(_AGAIN)  # its port may not be free yet

    def log(self) -> str:
        """The end of what it wrote to stderr so far."""
        return self._last_words if self._log.closed else _tail(self._log)

    def close(self, grace: float = _GRACE) -> None:
        """Lets it end once its jobs have, within `grace` seconds; then makes it. Idempotent; a forked child does nothing."""
        if os.getpid() != self._owner:
            return
        _running.discard(self)
        with self._lock:
            self._closed = True
            _end(self._process, grace)
        if not self._log.closed:
            self._last_words = _tail(self._log)
            self._log.close()

    def forget(self) -> None:
        """In a forked child: lets go of the files; the pipe would keep the switch alive."""
        for file in (self._process.stdin, self._process.stdout, self._log):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._process.returncode = 0  # not ours to wait for: nothing to warn of when the object goes


def start(
    host: str = "127.0.0.1",
    *,
    command: Sequence[str] | None = None,
    timeout: float = _STARTUP,
    tls: TlsFiles | None = None,
    token: str = "",
) -> EmbeddedSwitch:
    """Start an emulator on free ports of `host`, for workers that know its token.

    Args:
        host: IPv4 address to listen on.
        command: program and options that are started in the place of an emulator's.
        timeout: seconds that it may take to be ready, from when it last said that it is still compiling.
        tls: what it speaks TLS with; None = the environment's files.
        token: what it asks of workers; "" = a random one.

    Raises:
        UsageError: it has to speak TLS, and files for that are missing.
        SwitchUnreachableError: it is not ready in time; with what the child wrote to stderr.
    """
    files = TlsFiles.given() if tls is None else tls
    files.server()  # refuses what the child would refuse later
    token = token or secrets.token_hex(16)
    log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the switch

    def begin(control_port: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(command) if command is not None else emulator(host, control_port),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={
                **os.environ,
                "SWITCHML_TOKEN": token,
                **files.environment(),
            },  # an argument could be read by every user of the machine
            start_new_session=True,  # Ctrl-C reaches the workers, which leave first
        )

    try:
        process = begin(0)
    except OSError as error:
        log.close()
        raise SwitchUnreachableError(f"the embedded switch did not start: {error}") from error
    try:
        address = _announced(process, timeout)
    except BaseException as error:
        _end(process, 0.0)
        with log:
            said = _tail(log) or "(nothing)"
        if not isinstance(error, ValueError):
            raise
        raise SwitchUnreachableError(
            f"the embedded switch did not start: {error}; it said:\n{said}"
        ) from error
    return EmbeddedSwitch(process, address, token, log, lambda: begin(parse_address(address)[1]))


def emulator(host: str, control_port: int = 0) -> list[str]:
    """The command of an emulator on free ports of `host`, which ends with the process that started it."""
    options = [
        "--host",
        host,
        "--port",
        "0",
        "--control-port",
        str(control_port),
        "--announce",
        "-",
        "--tell-compiling",
        "--until-eof",
    ]
    return [sys.executable, "-P", "-m", "switchml.switch_emulator", *options]


def _announced(process: subprocess.Popen[bytes], timeout: float) -> str:
    """The control address that the child announces. Raises ValueError when it does not."""
    assert process.stdout is not None
    deadline = time.monotonic() + timeout
    told = False
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            *lines, text = text.split(b"\n")
            for line in lines:
                said = _said(line)
                if "control" in said:
                    return str(said["control"])
                deadline = time.monotonic() + timeout
                if not told:
                    told = True
                    print(_COMPILES, file=sys.stderr, flush=True)
                tell()
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise ValueError(f"it was not ready within {timeout:g} s")
            read = os.read(process.stdout.fileno(), 4096)
            if not read:
                raise ValueError("it ended before it was ready")
            text += read


def _said(line: bytes) -> dict[str, object]:
    """An announcement, or word that it compiles."""
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not {"control", "compiling"} & set(said):
        raise ValueError(f"its first line is no announcement: {line[:200]!r}")
    return said


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Closes the pipe, waits, then insists. Leaves no process behind."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    for insist, wait in ((None, grace), (process.terminate, _TERMINATE), (process.kill, _TERMINATE)):
        if insist is not None:
            insist()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
            break
    if process.stdout is not None:
        process.stdout.close()


def _tail(log: IO[bytes]) -> str:
    """The end of a file whose writer shares its position, so without moving it."""
    size = os.fstat(log.fileno()).st_size
    return os.pread(log.fileno(), _SHOWN, max(0, size - _SHOWN)).decode(errors="replace").strip()


_running: weakref.WeakSet[EmbeddedSwitch] = weakref.WeakSet()


def _forget_all() -> None:
    for switch in list(_running):
        switch.forget()


def _close_all() -> None:
    for switch in list(_running):
        switch.close()


os.register_at_fork(after_in_child=_forget_all)
close_at_exit(Stage.SWITCHES, _close_all)
