"""What every test runs under: repeatable hypothesis examples, and no process left behind."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.register_profile(
    "explore", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

RUN_MARK = f"SWITCHML_TEST_RUN={uuid.uuid4().hex}"
LEAVE_GRACE = 5.0
# Kept by multiprocessing for the life of the parent, one each.
LONG_LIVED = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
KERNEL = (0, 2)  # parents of its threads, which have no environment
_bare: set[str] = set()  # pids of processes that have none either

os.environ.update([RUN_MARK.split("=")])

# A shell's background job ignores Ctrl-C, as does a process of pytest-xdist, and so would all that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _descendants() -> dict[int, str]:
    """Live processes that this run started, by pid: our children, and all that inherited our environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state in "ZX":
                continue
            if int(parent) != os.getpid() and RUN_MARK.encode() not in _environment(entry, int(parent)):
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # ended while we looked, or not ours
        if not any(name in command for name in LONG_LIVED):
            found[int(entry.name)] = command
    return found


def _environment(process: Path, parent: int) -> bytes:
    found = (process / "environ").read_bytes()
    if not found and parent not in KERNEL and process.name not in _bare:
        time.sleep(0.01)  # in the middle of execve there is none
        found = (process / "environ").read_bytes()
        if not found:
            _bare.add(process.name)
    return found


@pytest.fixture(autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Fail a test whose processes outlive it by more than a few seconds, and end them."""
    before = set(_descendants())
    yield
    deadline = time.monotonic() + LEAVE_GRACE
    while left := {pid: command for pid, command in _descendants().items() if pid not in before}:
        if time.monotonic() > deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            pytest.fail("processes left behind: " + "; ".join(f"{pid}: {cmd}" for pid, cmd in left.items()))
        time.sleep(0.02)
