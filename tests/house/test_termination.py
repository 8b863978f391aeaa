"""SIGTERM as an exception, at the moments when a plain handler does not see it or is not heard."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

import pytest

from switchml.termination import listen, orderly_end

pytestmark = pytest.mark.timeout(60)


def test_a_signal_that_interrupts_nothing_ends_a_call_that_blocks() -> None:
    reader, writer = os.pipe()

    def told_to_this_thread() -> None:
        time.sleep(0.2)  # the main thread reads by now, and no call of its own is interrupted
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    thread = threading.Thread(target=told_to_this_thread)

    @orderly_end()
    def work() -> None:
        thread.start()
        os.read(reader, 1)

    try:
        with pytest.raises(SystemExit) as caught:
            work()
        assert caught.value.code == 128 + signal.SIGTERM
    finally:
        thread.join()
        os.close(reader)
        os.close(writer)


def test_an_exception_that_a_finalizer_drops_is_raised_again() -> None:
    class Told:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    @orderly_end()
    def work() -> None:
        told = Told()
        del told
        time.sleep(50)

    with pytest.raises(SystemExit):
        work()


def test_a_signal_while_a_dropped_exception_is_taken_up_is_heard_later() -> None:
    class Told:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def again(frame: FrameType, event: str, what: object) -> None:
        if event == "return" and frame.f_code.co_name == "dropped":
            signal.raise_signal(signal.SIGTERM)

    @orderly_end()
    def work() -> None:
        told = Told()
        sys.setprofile(again)
        del told
        sys.setprofile(None)
        time.sleep(50)

    try:
        with pytest.raises(SystemExit):
            work()
    finally:
        sys.setprofile(None)


def test_clean_up_is_not_disturbed() -> None:
    cleaned = False

    @orderly_end()
    def work() -> None:
        nonlocal cleaned
        try:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(50)
        finally:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.3)
            cleaned = True

    with pytest.raises(SystemExit):
        work()
    assert cleaned


def test_what_was_there_before_is_there_after(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: heard.append(what.exc_value))
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook

    class Failing:
        def __del__(self) -> None:
            raise ValueError("in a finalizer")

    with orderly_end():
        failing = Failing()
        del failing
    assert [str(one) for one in heard] == ["in a finalizer"]
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before
    assert all(thread.name != "switchml-termination" for thread in threading.enumerate())
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    assert wakeup == -1


def test_what_our_caller_ignores_stays_ignored() -> None:
    heard: list[int] = []
    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        with orderly_end():
            assert listen(numbers, lambda number, frame: heard.append(number)) == {
                signal.SIGUSR1: signal.SIG_DFL
            }
            for number in numbers:
                signal.raise_signal(number)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert heard == [signal.SIGUSR1]


def test_a_signal_while_the_block_is_left_goes_to_who_listened_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[int] = []
    join = threading.Thread.join

    def told_meanwhile(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "switchml-termination":
            signal.raise_signal(signal.SIGTERM)
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", told_meanwhile)
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with orderly_end():
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
