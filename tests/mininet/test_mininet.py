"""The Mininet experiments, small: real networks, real sums. Needs root and Mininet; skipped with the reason elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from switchml.testbed import LinkShape

SCRIPTS = Path(__file__).parents[2] / "scripts" / "mininet"
LOSSY = LinkShape(rate=10**8, loss=0.001)

pytestmark = [pytest.mark.timeout(300), pytest.mark.namespaces]


def why_not(switch: str) -> str | None:
    if importlib.util.find_spec("mininet") is None:
        return "mininet is not installed: pip install mininet, and apt-get install mininet for mnexec"
    if importlib.util.find_spec("pyroute2") is None:
        return "pyroute2 is not installed: pip install 'switchml[testbed]'"
    sys.path.insert(0, str(SCRIPTS))
    try:
        import topology
    finally:
        sys.path.remove(str(SCRIPTS))
    reason: str | None = topology.why_not(switch, LOSSY)
    return reason


def needs(switch: str) -> pytest.MarkDecorator:
    reason = why_not(switch)
    return pytest.mark.skipif(reason is not None, reason=f"no Mininet with {switch} here: {reason}")


def start(script: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / script), *arguments],
        text=True,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    child = start(script, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = child.communicate(timeout=240)
    return subprocess.CompletedProcess(child.args, child.returncode, output, errors)


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


@needs("native")
@pytest.mark.parametrize(
    "switch", ["native", pytest.param("p4", marks=needs("p4")), pytest.param("bmv2", marks=needs("bmv2"))]
)
def test_sums_are_right_on_lossy_links_and_nothing_is_left(switch: str, tmp_path: Path) -> None:
    before = interfaces()
    options = ["--workers", "3", "--rate", "100mbit", "--loss", "0.001", "--size", "16K,64K", "--rounds", "2"]
    program = ["--payload", "256"]
    files = ["--json", "-", "--plot", str(tmp_path / "times.png")]
    done = run("allreduce.py", "--switches", switch, *options, *program, *files)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [one["size"] for one in document["measurements"]] == [16384, 65536]
    for one in document["measurements"]:
        assert one["system"] == switch
        assert one["verdict"]["wrong"] == 0
        assert one["verdict"]["checked"] == 2 * 3 * one["count"]
    assert document["links"]["loss"] == 0.001
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")
    assert interfaces() == before


@needs("native")
def test_the_prompt_runs_commands_on_hosts() -> None:
    master, slave = pty.openpty()
    child = start(
        "star.py", "--workers", "2", "--rate", "0", "--cli", stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    try:
        until(master, "mininet> ")
        os.write(master, b"h2 cat /proc/net/dev\n")
        assert "h2-eth0" in until(master, "mininet> ")
        os.write(master, b"s1 switchml status --switch 10.83.0.254:50551\n")
        until(master, "mininet> ")
        os.write(master, b"exit\n")
        assert child.wait(60) == 0
    finally:
        end(child)
        os.close(master)


@needs("native")
def test_a_terminated_experiment_takes_its_network_down() -> None:
    child = start(
        "star.py", "--workers", "2", "--rate", "0", "--cli", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert "workers join at" in child.stdout.readline()
        child.terminate()
        assert child.wait(60) == 128 + signal.SIGTERM
    finally:
        end(child)


@needs("native")
def test_a_delay_comes_true_or_is_refused() -> None:
    done = run("star.py", "--workers", "2", "--delay", "5")
    if done.returncode:
        assert "sch_netem" in done.stderr
        assert "Traceback" not in done.stderr
    else:
        assert "0 wrong" in done.stdout


@needs("native")
def test_options_that_cannot_be_are_refused_before_anything_is_built() -> None:
    assert "choose from native" in run("allreduce.py", "--switches", "native,tofino").stderr
    assert "probability" in run("star.py", "--loss", "1.5").stderr
    assert "a star has 1 to 64" in run("star.py", "--workers", "65").stderr


def until(descriptor: int, wanted: str) -> str:
    """What came until `wanted` did."""
    seen = ""
    deadline = time.monotonic() + 120
    while not seen.endswith(wanted):
        assert select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0], seen
        seen += os.read(descriptor, 4096).decode(errors="replace")
    return seen


def end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.kill()
        child.wait(10)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()
