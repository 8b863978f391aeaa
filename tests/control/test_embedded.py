"""The embedded switch's process, played by small scripts."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from switchml.control import embedded
from switchml.control.client import ControlClient
from switchml.errors import SwitchUnreachableError
from switchml.protocol import compiling_signs, jit, prepare
from switchml.switch_emulator.pipeline import run

ANNOUNCE = """
import json, os, sys
print(json.dumps({"control": "127.0.0.1:1", "token": len(os.environ["SWITCHML_TOKEN"])}), flush=True)
"""


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_runs_until_the_pipe_closes() -> None:
    with embedded.start(
        command=script(ANNOUNCE + "sys.stdin.read(); print('bye', file=sys.stderr)")
    ) as switch:
        assert switch.address == "127.0.0.1:1"
        assert len(switch.token) == 32
        assert switch.running()
        assert os.getsid(switch.pid) == switch.pid
        command = Path(f"/proc/{switch.pid}/cmdline").read_bytes()
        assert switch.token.encode() not in command
    assert not switch.running()
    assert not is_alive(switch.pid)
    assert switch.log() == "bye"
    switch.close()


@pytest.mark.parametrize(
    "stubborn",
    [
        "import time; time.sleep(600)",
        "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)",
    ],
)
def test_one_that_does_not_end_is_made_to(stubborn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_TERMINATE", 0.3)
    switch = embedded.start(
        command=script(ANNOUNCE.replace("print", f"{stubborn.split(';')[0]}\nprint") + stubborn)
    )
    switch.close(grace=0.2)
    assert not is_alive(switch.pid)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import sys; sys.exit('no such port')", r"it ended before it was ready; it said:\nno such port"),
        ("import time; time.sleep(600)", "it was not ready within 1 s"),
        ("print('hello')", "its first line is no announcement: b'hello'"),
        ("print('[]')", "its first line is no announcement"),
    ],
)
def test_one_that_does_not_start_says_why(text: str, reason: str) -> None:
    with pytest.raises(SwitchUnreachableError, match=reason):
        embedded.start(command=script(text), timeout=1.0)


COMPILES = """
import time
for _ in range(8):
    print('{"compiling": true}', flush=True)
    time.sleep(0.25)
"""


def test_compiling_counts_against_no_deadline(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here 2 s of it; 1 s is what the start may take."""
    monkeypatch.setattr(compiling_signs, "_TELL_EVERY", 0.0)
    signs: list[float] = []
    with (
        compiling_signs.telling(lambda: signs.append(time.monotonic())),
        embedded.start(command=script(COMPILES + ANNOUNCE + "sys.stdin.read()"), timeout=1.0) as switch,
    ):
        assert switch.address == "127.0.0.1:1"
    assert len(signs) == 8  # who waits for this process hears of it as well
    assert capfd.readouterr().err.count("the switch compiles") == 1


@pytest.mark.skipif(jit.DISABLED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")
def test_a_switch_that_waits_for_another_that_compiles_says_so() -> None:
    folder = jit.cache_folder(run)
    if folder is None:
        pytest.skip("no folder for compiled code can be written here")
    heard = threading.Event()
    with contextlib.ExitStack() as other, ThreadPoolExecutor(1) as thread:
        other.enter_context(prepare._alone(folder))
        with compiling_signs.telling(heard.set):
            starting = thread.submit(embedded.start)
            assert heard.wait(60)
            other.close()
            starting.result().close()


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(SwitchUnreachableError, match="No such file"):
        embedded.start(command=["/nonexistent/switch"])


SPARING = f"""
import gc, os, sys
from switchml.control import embedded
from switchml.errors import SwitchUnreachableError
for text, ending in (({ANNOUNCE!r} + "sys.stdin.read()", 0), ("import sys; sys.exit(3)", 1)):
    try:
        switch = embedded.start(command=[sys.executable, "-c", text])
    except SwitchUnreachableError:
        assert ending == 1
        continue
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        switch.close()
    del switch
    gc.collect()
    if not child:
        os._exit(0)
try:
    embedded.start(command=["/nonexistent/switch"])
except SwitchUnreachableError:
    pass
gc.collect()
"""


def test_no_file_is_left_open_in_any_ending_nor_in_a_forked_child() -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", SPARING],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


OWNER = f"""
import os, sys, time
from switchml.control import embedded
switch = embedded.start(command=[sys.executable, "-c", {ANNOUNCE + "sys.stdin.read()"!r}])
child = os.fork()
if child == 0:
    switch.close()
    time.sleep(600)
print(switch.pid, child, flush=True)
if sys.argv[1] == "wait":
    sys.stdin.read()
"""


@pytest.mark.parametrize("ending", ["killed", "returns"])
def test_it_ends_with_its_owner_though_a_forked_child_lives(ending: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, "wait" if ending == "killed" else "go"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    switch, child = map(int, owner.stdout.readline().split())
    try:
        if ending == "killed":
            owner.kill()
        owner.wait(30)
        deadline = time.monotonic() + 30
        while is_alive(switch):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)
        owner.communicate()


@pytest.mark.skipif(
    importlib.util.find_spec("switchml.switch_emulator.__main__") is None,
    reason="the emulator has no program yet",
)
def test_the_real_one() -> None:
    with embedded.start() as switch:
        with ControlClient(switch.address, token=switch.token) as client:
            assert client.discover().host == "127.0.0.1"
        pid = switch.pid
    assert not is_alive(pid)
