"""BMv2's runtime CLI (`simple_switch_CLI`), spoken to over pipes, one command and its answer at a time."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import time
from collections.abc import Sequence

from switchml.errors import SwitchMLError

_PROMPT = b"RuntimeCmd: "
_REFUSED = re.compile(
    r"^(Error|Invalid|Unknown|Bad |.* error\b|Table \S+ (has no|needs)|Could not|Traceback)", re.M
)


class Bmv2Error(SwitchMLError):
    """BMv2 is not there, did not start, or refused a command."""


class RuntimeCli:
    """A running CLI. Ended by `close`.

    Raises:
        Bmv2Error: it does not start, or does not answer within `timeout` seconds.
    """

    def __init__(self, command: Sequence[str], timeout: float = 20.0) -> None:
        self._timeout = timeout
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise Bmv2Error(f"cannot start {command[0]}: {error.strerror}") from error
        try:
            self._answer("the start")
        except Bmv2Error:
            self.close()
            raise

    def run(self, command: str) -> str:
        """What the CLI answers to a command.

        Raises:
            Bmv2Error: it refuses the command, or is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Bmv2Error(f"BMv2's runtime CLI has ended: {error.strerror}") from error
        answer = self._answer(repr(command))
        if _REFUSED.search(answer):
            raise Bmv2Error(f"BMv2 refuses {command!r}: {' '.join(answer.split())}")
        return answer

    def _answer(self, what: str) -> str:
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        deadline = time.monotonic() + self._timeout
        got = b""
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not got.endswith(_PROMPT):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise Bmv2Error(f"no answer of BMv2's runtime CLI to {what} within {self._timeout:g} s")
                part = os.read(out, 65536)
                if not part:
                    said = " ".join(got.decode(errors="replace").split())
                    raise Bmv2Error(f"BMv2's runtime CLI ended at {what}: {said or 'without a word'}")
                got += part
        return got.removesuffix(_PROMPT).decode(errors="replace").strip()

    def close(self) -> None:
        """End it. Idempotent."""
        end(self._process)


def end(process: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End a process that we started: asked first, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
