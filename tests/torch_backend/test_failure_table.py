"""The program that measures failures beside gloo's: its quick cases, and that a cut of the network is survived."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from switchml.testbed import why_unavailable

TABLE = Path(__file__).parents[2] / "scripts" / "failures" / "failure_table.py"
REASON = why_unavailable()
# Three processes import torch in each run, on a machine that may be busy.
SECONDS = 240.0


def rows(*options: str) -> list[list[str]]:
    ended = subprocess.run(
        [sys.executable, str(TABLE), "--repeat", "1", *options],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [line.strip("| ").split(" | ") for line in ended.stdout.splitlines()[2:]]


def test_nothing_is_compiled_within_a_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would count against the time in which ranks become ready."""
    monkeypatch.syspath_prepend(str(TABLE.parent))
    table = importlib.import_module("failure_table")
    done: list[str] = []
    for name in ("prepare_engine", "prepare_pipeline"):
        monkeypatch.setattr(table, name, lambda *transport, name=name: done.append(name))
    monkeypatch.setattr(table.Run, "outcome", lambda run: done.append("run") or "1")
    monkeypatch.setattr(sys, "argv", ["failure_table.py", "--cases", "SIGKILL", "--repeat", "1"])
    table.main()
    assert done == ["prepare_pipeline", "prepare_engine", "run", "run"]
    assert "| SIGKILL | 1.00 s | 1.00 s |" in capsys.readouterr().out


@pytest.mark.timeout(2 * SECONDS)
def test_the_others_know_at_once_of_a_rank_that_ends() -> None:
    found = rows("--cases", "SIGKILL,switch killed", "--at-once", "3")
    assert [row[0] for row in found] == ["SIGKILL", "the switch is killed"]
    for _, switch, gloo in found:
        # One second is promised; a loaded machine may take more, a lease has 30.
        assert float(re.fullmatch(r"(\d+\.\d\d) s", switch)[1]) < 15
        assert re.fullmatch(r"\d+\.\d\d s|-", gloo)


@pytest.mark.namespaces
@pytest.mark.skipif(REASON is not None, reason=f"no testbed here: {REASON}")
@pytest.mark.timeout(2 * SECONDS)
def test_a_job_survives_a_cut_of_its_network() -> None:
    assert rows("--cases", "network cut", "--backends", "switchml") == [
        ["a rank's link is down for 5 s", "goes on"]
    ]
