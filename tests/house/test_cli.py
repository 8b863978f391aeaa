"""The `switchml` command as a user meets it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import switchml
from switchml.cli import COMMANDS, EXAMPLES, load
from switchml.control.control_messages import EndedJob, JobStatus, MemberStatus, SwitchStatus
from switchml.control.target import TargetDescription
from switchml.status import sentences, tables

SWITCHML = str(Path(sys.executable).with_name("switchml"))


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SWITCHML, *words], capture_output=True, text=True, timeout=60)


def test_help_lists_every_command() -> None:
    done = _run("--help")
    assert done.returncode == 0
    for name, (_, line) in COMMANDS.items():
        assert name in done.stdout
        assert line.split(",")[0] in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_explains_itself(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    assert hasattr(importlib.import_module(module), attribute)
    done = _run(name, "--help")
    assert done.returncode == 0
    assert f"switchml {name}" in done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_below_the_help_and_have_only_options_that_are_there(name: str) -> None:
    command = load(name)
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    for example in EXAMPLES[name]:
        assert example in command.epilog
        program, called, *words = example.partition(" -- ")[0].split()
        assert (program, called) == ("switchml", name)
        assert {word for word in words if word.startswith("-")} <= known


def _options(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from _options(inner, f"{path} {name}")
    yield from ((f"{path} {option}", each) for each in command.params for option in each.opts)


def test_a_token_and_tls_can_always_come_from_the_environment() -> None:
    found = dict(pair for name in COMMANDS for pair in _options(load(name), name))
    for name in ("cert", "key", "ca"):
        files = {path: each.envvar for path, each in found.items() if path.endswith(f" --tls-{name}")}
        assert set(files.values()) == {f"SWITCHML_TLS_{name.upper()}"}
        assert {path.partition(" ")[0] for path in files} == {
            "controller",
            "doctor",
            "run",
            "status",
            "switch",
        }
    tokens = {path: each.envvar for path, each in found.items() if path.endswith(" --token")}
    assert set(tokens.values()) == {"SWITCHML_TOKEN"}
    assert {path.partition(" ")[0] for path in tokens} == {
        "bench",
        "controller",
        "doctor",
        "metrics",
        "record",
        "run",
        "status",
        "switch",
        "top",
    }


def test_version_names_itself_and_what_it_stands_on() -> None:
    done = _run("version")
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines["switchml"] == switchml.__version__
    assert {"numba", "numpy", "grpcio", "torch", "python", "kernel"} <= lines.keys()


def test_as_a_module_it_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "switchml", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, _run("--version").stdout)


def test_the_version_alone() -> None:
    done = _run("--version")
    assert (done.returncode, done.stdout) == (0, f"switchml {switchml.__version__}\n")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("switchml st", {"status", "stf"}),
        ("switchml decode --ra", {"--rank"}),
        ("switchml bench allr", {"allreduce"}),
    ],
)
def test_a_shell_completes_commands_and_their_options(words: str, offered: set[str]) -> None:
    environment = {
        **os.environ,
        "_SWITCHML_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run([SWITCHML], capture_output=True, text=True, timeout=60, env=environment)
    assert set(done.stdout.split()) == offered


def test_an_unknown_command_is_a_usage_error() -> None:
    done = _run("nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_our_errors_are_one_line_and_exit_code_1() -> None:
    done = _run("status", "--switch", "127.0.0.1:1", "--timeout", "0.2")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("switchml: nothing listens at 127.0.0.1:1")
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback() -> None:
    done = _run("--debug", "status", "--switch", "127.0.0.1:1", "--timeout", "0.2")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "SwitchUnreachableError" in done.stderr


def test_status_asks_a_running_switch() -> None:
    from switchml.control import embedded

    with embedded.start() as switch:
        done = _run("status", "--switch", switch.address, "--token", switch.token, "--json")
        refused = _run("status", "--switch", switch.address, "--token", "another")
        switch.close(grace=0)
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["jobs"] == []
    assert answer["counters"]["packets_received"] == 0
    assert refused.returncode == 1
    assert "token" in refused.stderr


def test_status_of_several_switches() -> None:
    from switchml.switch_emulator import Emulator

    with Emulator() as first, Emulator() as second:
        addresses = [first.control_address, second.control_address]
        done = _run("status", "--switch", f"{addresses[0]},{addresses[1]}*3", "--json")
        shown = _run("status", "--switch", ",".join(addresses))
    assert sorted(json.loads(done.stdout)) == sorted(addresses)
    assert all(f"switch {address}" in shown.stdout for address in addresses)


def test_status_shows_jobs_workers_and_counters() -> None:
    members = (
        MemberStatus(0, "udp", "10.0.0.1", 4711, "ready", 0.5, 1.25, sent_again=70_001, arrived_twice=9),
        MemberStatus(1, "shm", "", 0, "joined", None, None),
    )
    job = JobStatus(
        "digits",
        3,
        2,
        "running",
        512,
        256,
        1024,
        False,
        "239.1.2.3",
        5000,
        True,
        members,
        {"chunks_completed": 9},
        12,
    )
    half = dataclasses.replace(
        job, name="half", job_number=0, state="joining", members=members[:1], waits_for="rank 1 to join"
    )
    answer = SwitchStatus(
        target=TargetDescription("10.0.0.9", 48864, "", 16384, 16384, 256),
        jobs=(job, half),
        ended=(
            EndedJob("full", 0, 2, "no slots", 1.0),
            EndedJob("old", 2, 4, "rank 2 has not been heard for 10.0 s", 30.0),
        ),
        counters={"chunks_completed": 1234, "dropped_stale": 0},
        free_slots=16128,
        lease=10,
        uptime=99,
    )
    console = Console(width=80)
    with console.capture() as capture:
        for part in tables("10.0.0.9:50551", answer, {"chunks_completed": 4321.0}.get):  # type: ignore[arg-type]
            console.print(part)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "switch 10.0.0.9:50551", "16128 of 16384 free", "512-767", "multicast to 239.1.2.3:5000", "udp 10.0.0.1:4711",
        "1.2 s ago", "never", "70,001", "rank 2 has not been heard", "chunks_completed", "1,234", "4.32 k",
        "old (job 2), 30.0 s ago",
        "full (not served), 1.0 s ago: no slots", "rank 1 to join", "job digits", "results by",
    ):  # fmt: skip
        assert words in text
    assert "dropped_stale" not in text


def _status(members: int, counters: dict[str, int], *, shm: str = "socket", **of_each: Any) -> SwitchStatus:
    """A job "a" whose workers are on hosts of their own, but for one on the switch's."""
    there = [
        MemberStatus(rank, "udp", f"10.0.0.{rank + 1}", 4711, "ready", 0.5, 1.2, **of_each)
        for rank in range(members)
    ]
    job = JobStatus(
        "a", 1, members, "running", 0, 512, 1024, False, "", 0, False, tuple(there), counters, 12.0
    )
    target = TargetDescription("10.0.0.1", 48864, shm, 16384, 16384, 256)
    return SwitchStatus(target, (job,), (), {}, 16384, 10.0, 99.0)


def test_status_says_what_was_sent_for_nothing_and_whose_link_is_shared() -> None:
    counters = {"packets_received": 10_000, "dropped_duplicate": 600, "dropped_stale": 250}
    copies, shared = sentences(_status(4, counters, sent_again=200))
    assert copies.startswith("a: 800 packets, 8.0%, were sent again for nothing")
    assert shared.startswith("a: The packets of 3 workers on other hosts pass one link")
    # A switch on each of four hosts: three quarters of what a worker sends.
    assert list(sentences(_status(4, counters), 4)) == []
    # One in hardware has a port for each worker.
    assert list(sentences(_status(4, counters, shm=""))) == []
    (lost,) = sentences(_status(2, counters, sent_again=500))
    assert "a: 1,000 packets, 10.0%, were sent again, 150 of them because the network had lost" in lost
