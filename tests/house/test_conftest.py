"""The fixture that watches for processes left behind does see them; workers are forked from one process."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from preloaded import Template

pytest_plugins = ("pytester",)
CONFTEST = Path(__file__).parents[1] / "conftest.py"


def _run(pytester: pytest.Pytester, body: str, *options: str) -> pytest.RunResult:
    impatient, replaced = re.subn(r"LEAVE_GRACE = [\d.]+", "LEAVE_GRACE = 0.2", CONFTEST.read_text())
    assert replaced == 1
    pytester.makeconftest(impatient)
    pytester.makepyfile(body)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)


def test_a_child_left_running_fails_its_test_and_is_ended(pytester: pytest.Pytester) -> None:
    result = _run(
        pytester,
        """
        import subprocess, time
        def test_leaves_child():
            subprocess.Popen(["sleep", "60"])
        def test_after():
            assert subprocess.run(["true"]).returncode == 0
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*processes left behind: *sleep 60*"])


def test_an_orphaned_grandchild_is_seen(pytester: pytest.Pytester) -> None:
    result = _run(
        pytester,
        """
        import subprocess
        def test_leaves_orphan():
            subprocess.run(["sh", "-c", "setsid sleep 61 & exit 0"], check=True)
        """,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*processes left behind: *sleep 61*"])


def test_processes_that_end_in_time_are_no_fault(pytester: pytest.Pytester) -> None:
    result = _run(
        pytester,
        """
        import subprocess
        def test_short():
            subprocess.Popen(["sleep", "0.05"])
        """,
    )
    result.assert_outcomes(passed=1)


def test_what_another_process_of_the_run_has_started_is_not_ours(pytester: pytest.Pytester) -> None:
    """The second test ends while the first one's child runs."""
    result = _run(
        pytester,
        """
        import subprocess, time
        def test_leaves_child():
            subprocess.Popen(["sleep", "62"])
            time.sleep(2)
        def test_meanwhile():
            time.sleep(0.5)
        """,
        *("-n", "2"),
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_leaves_child*", "*processes left behind: *sleep 62*"]
    )


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="not under pytest-xdist: no workers")
def test_the_workers_of_this_run_were_forked() -> None:
    """One that could not be says so at the start of the run."""
    pytest.importorskip("torch", reason="torch is in the extra `torch`")
    assert b"preloaded.py" in Path("/proc/self/cmdline").read_bytes()


def test_a_process_to_fork_from_that_has_ended_is_told() -> None:
    with Template() as template:
        template._process.kill()
        template._process.wait()
        with pytest.raises(ChildProcessError, match="has ended"):
            template.start(["true.py"], {})
