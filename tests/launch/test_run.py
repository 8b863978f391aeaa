"""`switchml run` from end to end: real emulator, torch's launcher, real signals."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is in the extra `torch`")

pytestmark = pytest.mark.usefixtures("preloaded_programs")
SWITCHML = str(Path(sys.executable).with_name("switchml"))
# One write a line: the launcher runs Python unbuffered, where `print` writes piece by piece and ranks would interleave.
ALLREDUCE = """
    import sys, torch, torch.distributed as dist
    dist.init_process_group("switchml")
    tensor = torch.full((1000,), float(dist.get_rank() + 1))
    dist.all_reduce(tensor)
    assert tensor.eq(3).all(), tensor
    sys.stdout.write(" ".join(["sum ok", *sys.argv[1:]]) + "\\n")
    dist.destroy_process_group()
    """
# Ranks that need not be torch's, which takes longer to import than all that these tests look at.
WAITS = """
    import os, sys, time
    import numpy as np
    from switchml.worker import Worker
    place = {name: int(os.environ[name.upper()]) for name in ("rank", "world_size")}
    worker = Worker.join(os.environ["SWITCHML_SWITCH"], job="light", **place)
    worker.allreduce(np.ones(1000, np.float32))
    sys.stdout.write("up\\n")
    time.sleep(600)
    """
FAILS = "raise SystemExit('no training today')"


def _script(folder: Path, body: str) -> str:
    path = folder / "train.py"
    path.write_text(textwrap.dedent(body))
    return str(path)


def test_the_script_runs_over_the_switch_and_the_account_says_so(tmp_path: Path) -> None:
    account = tmp_path / "account.json"
    words = [
        SWITCHML,
        "run",
        "-n",
        "2",
        "--payload",
        "1024",
        "--json",
        str(account),
        "--",
        _script(tmp_path, ALLREDUCE),
        "--help",
        "-n",
        "x",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sum ok --help -n x") == 2
    assert "chunks summed" in done.stderr
    told = json.loads(account.read_text())
    assert told["exit_code"] == 0
    assert told["workers"] == 2
    traffic = told["traffic"]
    assert traffic["elements"] >= 1000
    assert traffic["counters"]["chunks_completed"] == 1  # in memory a small sum is one, whatever its size
    assert traffic["counters"]["elements_added"] == pytest.approx(2 * traffic["elements"], abs=1)
    assert traffic["bytes"] == traffic["counters"]["bytes_received"] + traffic["counters"]["bytes_sent"]


def test_several_nodes_need_no_switch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = _script(tmp_path, ALLREDUCE)
    words = [SWITCHML, "run", "-n", "1", "--nnodes", "2", "--master-port", port, "--node-rank"]
    nodes = [
        subprocess.Popen(
            [*words, rank, "--", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    try:
        ended = [node.communicate(timeout=110) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    for node, (stdout, stderr) in zip(nodes, ended, strict=True):
        assert node.returncode == 0, stderr
        assert stdout.count("sum ok") == 1
        assert "that --switch names" in stderr


def test_faults_are_made_and_named(tmp_path: Path) -> None:
    body = ALLREDUCE.replace(
        "dist.all_reduce(tensor)", "dist.all_reduce(torch.ones(1_000_000)); dist.all_reduce(tensor)"
    )
    account = tmp_path / "account.json"
    words = [
        SWITCHML,
        "run",
        "-n",
        "2",
        "--json",
        str(account),
        "--loss",
        "0.02",
        "--duplicate",
        "0.02",
        "--seed",
        "5",
        _script(tmp_path, body),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert "on purpose lost" in done.stderr
    assert "on purpose duplicated" in done.stderr
    # Some forty packets and as many results of two thousand each.
    traffic = json.loads(account.read_text())["traffic"]
    assert traffic["sent_again"] > 0
    assert any("the network had lost packets" in sentence for sentence in traffic["sentences"])
    assert traffic["sentences"][0] in done.stderr


def test_a_training_that_fails_fails_the_run(tmp_path: Path) -> None:
    words = [SWITCHML, "run", "-n", "2", "--", _script(tmp_path, FAILS)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=110)
    assert done.returncode == 1
    assert "no training today" in done.stderr
    assert "exit code" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_soon(tmp_path: Path, number: signal.Signals) -> None:
    """That nothing is left behind is what the fixture of every test looks after."""
    words = [SWITCHML, "run", "-n", "2", "--", _script(tmp_path, WAITS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert [run.stdout.readline() for _ in range(2)] == ["up\n"] * 2
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "chunks summed" in errors


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    words = [SWITCHML, "run", "-n", "2", "--", _script(tmp_path, WAITS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        assert [run.stdout.readline() for _ in range(2)] == ["up\n"] * 2
        run.kill()
        assert run.stdout.read() == ""  # until the last worker has let go of it
    # The switch goes once it knows that its members have died.
    deadline = time.monotonic() + 30
    while _switches() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _switches() == []


def _switches() -> list[int]:
    """Emulators that these tests started and that still run."""
    mark = os.environ["SWITCHML_TEST_RUN"].encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and mark in (entry / "environ").read_bytes()
                and b"switchml.switch_emulator" in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_progress_is_shown_on_a_terminal_without_spoiling_the_output(tmp_path: Path) -> None:
    body = ALLREDUCE.replace("dist.destroy", "import time; time.sleep(2.5); dist.destroy")
    master, slave = pty.openpty()
    words = [SWITCHML, "run", "-n", "2", "--", _script(tmp_path, body), "shown"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(words, stdout=slave, stderr=slave, env=environment) as run:
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
        assert run.wait(timeout=60) == 0
    os.close(master)
    assert b"packets/s" in shown
    assert shown.count(b"sum ok shown\r\n") == 2


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other side of a terminal is closed
        return b""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["no-such-file.py"], "no script"),
        (["--loss", "0.1", "--switch", "127.0.0.1:1", __file__], "leave --switch out"),
        (["--nnodes", "2", "--loss", "0.1", __file__], "over several nodes"),
    ],
)
def test_what_cannot_work_is_one_line(words: list[str], says: str) -> None:
    done = subprocess.run([SWITCHML, "run", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
