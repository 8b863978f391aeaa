"""Compiling before it is needed: what is said of it, and who waits for whom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from switchml.protocol import compiling_signs, jit, prepare

pytestmark = pytest.mark.skipif(jit.DISABLED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")


def new_function() -> object:
    """A function that nobody has compiled."""

    def triple(value: int) -> int:
        return 3 * value

    return jit.compiled(triple)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jit._CacheImpl, "_locator_classes", [])


def test_what_is_compiled_already_is_not_spoken_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "_SILENT", 0.0)
    function = new_function()
    assert prepare.prepare(function, "tripler", 1) == 1
    told = capfd.readouterr().err
    assert told.startswith("switchml: compiling the tripler for this machine")
    assert told.splitlines()[-1].startswith("switchml: compiled 1 functions in ")
    assert prepare.prepare(function, "tripler", 1) == 0
    assert capfd.readouterr().err == ""


def test_a_log_has_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(prepare, "_LOOK", 1000.0)
    monkeypatch.setattr(prepare, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = prepare._Progress("tripler")
    for second in (0.0, 1.0, 3.0, 4.0, 9.0, 10.0, 15.5):
        now[0] = second
        progress.on_start(None)
    progress.close()
    assert capfd.readouterr().err.splitlines() == [
        "switchml: compiling the tripler for this machine, once; this takes ten seconds or more",
        "switchml: the tripler: 5 functions, 9 s",
        "switchml: the tripler: 7 functions, 16 s",
        "switchml: compiled 7 functions in 16 s",
    ]


def test_a_line_comes_though_no_function_does(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "_SILENT", 0.0)
    monkeypatch.setattr(prepare, "_LINE_EVERY", 0.0)
    progress = prepare._Progress("tripler")
    progress.on_start(None)
    told = ""
    while "the tripler: 1 functions" not in told:
        told += capfd.readouterr().err
    progress.close()


def test_what_is_quick_is_not_spoken_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "_SILENT", 1000.0)
    assert prepare.prepare(new_function(), "tripler", 1) == 1
    assert capfd.readouterr().err == ""


HOLD = """
import sys
from switchml.protocol import prepare
with prepare._alone(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_is_of_one_folder_and_ends_with_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_PATIENCE", 0.3)
    naps: list[float] = []
    monkeypatch.setattr(prepare.time, "sleep", naps.append)
    (tmp_path / "other").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with prepare._alone(str(tmp_path / "other")):
            assert naps == []
        with prepare._alone(str(tmp_path)):
            assert naps  # waited, and went on without
        holder.kill()
        holder.wait()
        naps.clear()
        with prepare._alone(str(tmp_path)):
            assert naps == []


def test_a_lock_that_cannot_be_had_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's file, in a folder that several use; a folder that is gone; none at all."""

    def refuse(*_: object) -> int:
        raise PermissionError

    for folder in (None, str(tmp_path / "gone")):
        with prepare._alone(folder):
            pass
    monkeypatch.setattr(prepare.os, "open", refuse)
    with prepare._alone(str(tmp_path)):
        pass


def test_who_listens_is_told_while_functions_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling_signs, "_TELL_EVERY", 0.0)
    signs: list[int] = []
    function = new_function()
    with compiling_signs.telling(lambda: signs.append(1)):
        prepare.prepare(function, "tripler", 1)
        assert signs == [1]
        prepare.prepare(function, "tripler", 1)
    prepare.prepare(new_function(), "tripler", 1)
    assert signs == [1]


def test_signs_do_not_come_more_often_than_they_are_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(compiling_signs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(compiling_signs, "_told", 0.0)
    signs: list[float] = []
    with compiling_signs.telling(lambda: signs.append(now[0])):
        for _ in range(30):
            compiling_signs.tell()
            now[0] += 0.1
    assert len(signs) == 3
