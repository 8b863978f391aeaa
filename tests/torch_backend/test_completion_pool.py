"""The pool always has one more thread, and lets go of all of them."""

from __future__ import annotations

import threading
import time
import weakref

import pytest

from switchml.torch_backend import completion_pool
from switchml.torch_backend.completion_pool import CompletionPool


def alive(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_tasks_that_wait_for_later_tasks() -> None:
    pool = CompletionPool("nested")
    depth = 40
    events = [threading.Event() for _ in range(depth)]
    finished = threading.Event()

    def task(level: int) -> None:
        if level == depth - 1:
            events[level].set()
            return
        pool.submit(lambda: task(level + 1))
        events[level + 1].wait(10)
        events[level].set()
        if level == 0:
            finished.set()

    pool.submit(lambda: task(0))
    assert finished.wait(10)
    assert pool.close(5)
    assert alive("nested") == []


def test_an_idle_thread_is_used_again() -> None:
    pool = CompletionPool("again")
    names = []
    for _ in range(50):
        done = threading.Event()
        pool.submit(lambda done=done: (names.append(threading.get_ident()), done.set()))  # type: ignore[misc]
        assert done.wait(5)
        # Idle only once it has come back for the next task.
        deadline = time.monotonic() + 5
        while pool._idle == 0 and time.monotonic() < deadline:
            time.sleep(0.0005)
    assert len(set(names)) == 1
    assert pool.close(5)


def test_many_submitters_lose_nothing() -> None:
    pool = CompletionPool("many")
    seen: list[tuple[int, int]] = []

    def submitter(which: int) -> None:
        for number in range(200):
            pool.submit(lambda number=number: seen.append((which, number)))  # type: ignore[misc]

    threads = [threading.Thread(target=submitter, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.close(10)
    assert sorted(seen) == [(which, number) for which in range(4) for number in range(200)]


def test_close_gives_up_on_a_task_that_does_not_end() -> None:
    pool = CompletionPool("stuck")
    release = threading.Event()
    pool.submit(lambda: release.wait(30) and None)
    assert not pool.close(0.05)
    release.set()
    assert pool.close(5)


def test_tasks_still_run_after_close() -> None:
    pool = CompletionPool("closed")
    assert pool.close(1)
    ran = threading.Event()
    pool.submit(ran.set)
    assert ran.wait(5)
    assert pool.close(5)
    assert alive("closed") == []


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion_pool, "IDLE_SECONDS", 0.05)
    pool = CompletionPool("idle")
    pool.submit(lambda: None)
    deadline = time.monotonic() + 5
    while alive("idle"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_finished_task_is_let_go() -> None:
    class Big:
        def __call__(self) -> None:
            return

    pool = CompletionPool("letgo")
    task = Big()
    gone = weakref.ref(task)
    pool.submit(task)
    del task
    deadline = time.monotonic() + 5
    while gone() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert pool.close(5)


def test_without_threads_the_caller_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = CompletionPool("none")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ran: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool.submit(lambda: ran.append(threading.get_ident()))
    assert ran == [threading.get_ident()]
    assert pool.close(1)
