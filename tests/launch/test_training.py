"""A training that is interrupted ends in bounded time, with all its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from switchml.errors import UsageError
from switchml.launch import stragglers
from switchml.launch.training import Training

NEVER = 3600.0


def _nothing() -> None:
    pass


def _python(body: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(body)]


def _later(seconds: float, *numbers: int) -> threading.Thread:
    def send() -> None:
        for number in numbers:
            time.sleep(seconds)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_the_exit_code_is_the_trainings() -> None:
    with Training(_python("raise SystemExit(7)"), {}) as training:
        assert training.wait(NEVER, _nothing) == 7


def test_death_by_a_signal_is_told_as_a_shell_tells_it() -> None:
    with Training(_python("import os; os.kill(os.getpid(), 9)"), {}) as training:
        assert training.wait(NEVER, _nothing) == 128 + 9


def test_the_environment_is_added() -> None:
    with Training(
        _python("import os; raise SystemExit(os.environ['SWITCHML_X'] != 'y')"), {"SWITCHML_X": "y"}
    ) as training:
        assert training.wait(NEVER, _nothing) == 0


def test_ticks_come_while_it_runs() -> None:
    ticks: list[float] = []
    with Training(_python("import time; time.sleep(1)"), {}) as training:
        training.wait(0.1, lambda: ticks.append(time.monotonic()))
    assert len(ticks) >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    before = signal.signal(number, signal.default_int_handler)  # nohup would have it ignored
    body = f"""
        import signal, time
        signal.signal({int(number)}, lambda *_: exit(0))
        print("up", flush=True)
        time.sleep(60)
        """
    with Training(_python(body), {}, piped=(1,)) as training:
        assert training.process.stdout is not None
        assert training.process.stdout.readline() == b"up\n"
        sender = _later(0.1, number)
        assert training.wait(NEVER, _nothing) == 128 + number
        assert training.process.returncode == 0
        training.process.stdout.close()
    sender.join()
    assert signal.signal(number, before) is signal.default_int_handler


DEAF = """
    import signal, subprocess, sys, time
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.argv[1:] != ["child"]:
        subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True)
    print("up", flush=True)
    time.sleep(60)
    """


@pytest.mark.parametrize(("grace", "signals"), [(0.3, 1), (NEVER, 2)], ids=["grace over", "second signal"])
def test_deaf_processes_are_ended_all_the_same(tmp_path: Path, grace: float, signals: int) -> None:
    """Also one that has made itself a session of its own."""
    script = tmp_path / "deaf.py"
    script.write_text(textwrap.dedent(DEAF))
    with Training([sys.executable, str(script)], {}, grace=grace, piped=(1,)) as training:
        assert training.process.stdout is not None
        assert [training.process.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
        sender = _later(0.1, *[signal.SIGINT] * signals)
        assert training.wait(NEVER, _nothing) == 128 + signal.SIGINT
        mark = training._mark
        training.process.stdout.close()
    sender.join()
    assert stragglers.marked(mark) == []


def test_what_an_error_of_ours_leaves_running_is_ended() -> None:
    with pytest.raises(ZeroDivisionError), Training(_python("import time; time.sleep(60)"), {}) as training:
        training.wait(0.01, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert training.process.poll() is not None


@pytest.mark.timeout(30)
def test_it_does_not_outlive_us() -> None:
    """Not even when we are killed: the kernel tells it."""
    child = subprocess.Popen(
        _python(
            """
            import sys
            from switchml.launch.training import Training
            command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
            with Training(command, {}) as training:
                training.wait(3600, lambda: None)
            """
        ),
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.kill()
        assert child.stdout.read() == b""  # the pipe ends when the last process that holds it does


def test_signals_that_our_caller_ignores_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Training(_python(""), {}) as training:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            training.wait(NEVER, _nothing)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_launcher_that_does_not_exist_is_a_clear_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(UsageError, match="did not start: No such file"):
        Training(["/no/such/program"], {})
    assert signal.getsignal(signal.SIGINT) == before
