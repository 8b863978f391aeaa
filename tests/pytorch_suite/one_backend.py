"""Runs PyTorch's own backend suite for one backend and one world size; prints a line of JSON a test.

one_backend.py BACKEND WORLD_SIZE [--list] [--jobs N] [--deadline SECONDS] [--only PATTERN]...

The suite is `torch.testing._internal.distributed.distributed_test`, as it lies in the installed torch. Its tests are
run as they are, through its own class and its own judgement of exit codes. What is done here:

- Its skips are decided from the backend's name when it is imported. They are decided as for gloo, for both backends;
  then the name of the backend under test is put in its place.
- Skips that no longer hold are lifted, for both: tests of all_to_all are kept for MPI by name, and those of groups of
  ranks 1 and 2 ask for a world of 8 where 3 do.
- `torch.distributed.monitored_barrier` refuses every backend but gloo by its name. For another, the tests that call it
  get the group's own method of that name.
- A process that has imported torch forks the ranks, where the suite would start each from nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fnmatch
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unittest
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from typing import Any
from unittest import mock

SUITE = "torch.testing._internal.distributed.distributed_test"
# Group tests make a group of ranks 1 and 2.
SMALLEST_FOR_GROUPS = 3
SUITE_TEMPORARY = "switchml-pytorch-suite-"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)


class Name(str):
    """A backend's name that the suite also takes for gloo's where it compares: it then runs a test on the CPU."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other == "gloo" or str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def load(backend: str, world_size: int) -> tuple[type[unittest.TestCase], list[str]]:
    """The suite's test case for a backend, and its tests' names in order."""
    os.environ["WORLD_SIZE"] = str(world_size)
    os.environ.setdefault("TEMP_DIR", tempfile.gettempdir())
    from torch.testing._internal import common_distributed

    for feature in ("gpu", "cuda", "ddp", "subgroup", "plugin"):
        common_distributed.DistTestCases.backend_feature[feature].add(backend)
    if world_size >= SMALLEST_FOR_GROUPS:
        common_distributed.skip_if_small_worldsize = lambda function: function
    mpi = _import_as("mpi")
    gloo = _import_as("gloo")  # last: what tests pickle is looked up by name, and has to be found here
    os.environ["BACKEND"] = backend
    gloo.BACKEND = mpi.BACKEND = Name(backend)

    if backend != "gloo":
        gloo.dist.monitored_barrier = _without_name_check(gloo.dist.monitored_barrier)

    class Suite(gloo.TestDistBackend, gloo.DistributedTest._DistTestBase):  # type: ignore[name-defined, misc]
        def setUp(self) -> None:
            super().setUp()
            self._start_processes(get_context("fork").Process)

    for name, function in vars(mpi.DistributedTest._DistTestBase).items():
        ours = getattr(Suite, name, None)
        if _is_skipped(ours) and not _is_skipped(function):
            setattr(Suite, name, function)
    return Suite, unittest.TestLoader().getTestCaseNames(Suite)  # type: ignore[return-value]


def _without_name_check(monitored_barrier: Callable[..., None]) -> Callable[..., None]:
    """`torch.distributed.monitored_barrier` with the rest of its checks, on a group of any backend."""
    from torch.distributed import distributed_c10d

    def call(*args: Any, **kwargs: Any) -> None:
        with mock.patch.object(distributed_c10d, "get_backend", return_value="gloo"):
            monitored_barrier(*args, **kwargs)

    return call


def _import_as(backend: str) -> Any:
    """A copy of the suite that has decided its skips as for `backend`."""
    os.environ["BACKEND"] = backend
    found = importlib.util.find_spec(SUITE)
    if found is None or found.loader is None:
        raise SystemExit(f"{SUITE} is not in this torch")
    module = importlib.util.module_from_spec(found)
    sys.modules[SUITE] = module  # its own classes look themselves up
    found.loader.exec_module(module)
    return module


def _is_skipped(function: Any) -> bool:
    return getattr(function, "__unittest_skip__", False)


@dataclass
class Running:
    """A test in flight: a process of its own session, which forks the ranks."""

    name: str
    pid: int
    answer: connection.Connection
    log: str
    folder: str
    started: float = field(default_factory=time.monotonic)

    def end(self) -> dict[str, Any]:
        """Its outcome. Nothing is left of it afterwards."""
        try:
            outcome = self.answer.recv() if self.answer.poll() else None
        except EOFError:
            outcome = None
        if outcome is None:
            outcome = {"outcome": "failed", "message": "no outcome within the deadline, or the process died"}
        report = {"test": self.name, **outcome, "seconds": round(time.monotonic() - self.started, 2)}
        if outcome["outcome"] == "failed":
            with open(self.log, errors="replace") as log:
                report["log"] = log.read()[-20000:]
        self.kill()
        return report

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-self.pid, 0)
        self.answer.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def start(suite: type[unittest.TestCase], name: str) -> Running:
    ours, theirs = get_context("fork").Pipe(duplex=False)
    folder = tempfile.mkdtemp(prefix=SUITE_TEMPORARY)
    log = os.path.join(folder, "log")
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            os.setsid()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with open(log, "w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            os.environ["TMPDIR"] = os.environ["TEMP_DIR"] = tempfile.tempdir = folder
            theirs.send(run(suite, name))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    theirs.close()
    return Running(name, pid, ours, log, folder)


def run(suite: type[unittest.TestCase], name: str) -> dict[str, str]:
    for folder in ("barrier", "test_dir", "init_dir"):
        os.makedirs(os.path.join(os.environ["TEMP_DIR"], folder), exist_ok=True)
    suite.setUpClass()
    result = unittest.TestResult()
    suite(name).run(result)
    for _, reason in result.skipped:
        return {"outcome": "skipped", "message": reason}
    for _, text in result.errors + result.failures:
        return {"outcome": "failed", "message": text}
    return {"outcome": "passed", "message": ""}


def load_worker() -> None:
    """What takes a rank longest at its first collective, once here for all of them."""
    import switchml.control.client
    import switchml.torch_backend.creation  # noqa: F401
    from switchml.protocol.prepare import prepare
    from switchml.worker.engine import run

    prepare(run, "worker's engine", 0, 0, 0)


def adopt_orphans() -> None:
    """Ranks whose test process has ended become children of this one, which can then wait for their end."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("backend")
    parser.add_argument("world_size", type=int)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=120.0)
    parser.add_argument("--only", action="append", default=[])
    asked = parser.parse_args()

    suite, names = load(asked.backend, asked.world_size)
    if asked.only:
        names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in asked.only)]
    print(json.dumps({"tests": names}), flush=True)
    if asked.list:
        return
    if asked.backend == "switchml":
        load_worker()

    adopt_orphans()
    os.register_at_fork(after_in_child=die_with_parent)
    running: list[Running] = []

    def interrupted(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    waiting = names[::-1]
    try:
        while waiting or running:
            while waiting and len(running) < asked.jobs:
                running.append(start(suite, waiting.pop()))
            connection.wait([test.answer for test in running], timeout=1.0)
            now = time.monotonic()
            for test in list(running):
                if test.answer.poll() or now - test.started > asked.deadline:
                    running.remove(test)
                    print(json.dumps(test.end()), flush=True)
    finally:
        for test in running:
            test.kill()


if __name__ == "__main__":
    main()
