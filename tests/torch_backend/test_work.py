"""The handle: who waits, who is told, and what is let go."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch

from switchml.errors import CollectiveMismatchError, CollectiveTimeoutError
from switchml.torch_backend.completion_pool import CompletionPool
from switchml.torch_backend.kept_handles import KEPT, SMALL, KeptHandles
from switchml.torch_backend.switch_work import SwitchWork


class Part:
    """A collective that ends when the test says so; callbacks run on the thread of `end`, as on the wire thread."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.waiting = threading.Event()
        self.error: BaseException | None = None
        self.callbacks: list[Callable[[Any], None]] = []

    def end(self, error: BaseException | None = None) -> None:
        self.error = error
        self.ended.set()
        for callback in self.callbacks:
            callback(self)

    def wait(self, timeout: float | None = None) -> Any:
        self.waiting.set()
        if not self.ended.wait(10 if timeout is None else timeout):
            raise CollectiveTimeoutError("in flight")
        if self.error is not None:
            raise self.error
        return np.array([1])

    def done(self) -> bool:
        return self.ended.is_set()

    def exception(self) -> BaseException | None:
        return self.error

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        if self.ended.is_set():
            fn(self)
        else:
            self.callbacks.append(fn)


@pytest.fixture
def pool() -> Iterator[CompletionPool]:
    made = CompletionPool("test-work")
    yield made
    assert made.close(5)


def work_of(pool: CompletionPool, *parts: Part, **options: Any) -> SwitchWork:
    return SwitchWork("allreduce", parts, [torch.ones(2)], pool, **options)


def test_waits_for_all_parts(pool: CompletionPool) -> None:
    first, second = Part(), Part()
    work = work_of(pool, first, second)
    first.end()
    assert not work.is_completed()
    assert not work.is_success()
    assert work.exception() is None
    second.end()
    assert work.wait()
    assert work.is_completed()
    assert work.is_success()
    assert torch.equal(work.result()[0], torch.ones(2))
    assert work.synchronize() is None


def test_wait_raises_the_error_with_its_type(pool: CompletionPool) -> None:
    part = Part()
    work = work_of(pool, part)
    part.end(CollectiveMismatchError("10 and 11 elements"))
    for _ in range(2):
        with pytest.raises(CollectiveMismatchError, match="10 and 11"):
            work.wait()
    assert work.is_completed()
    assert not work.is_success()
    assert isinstance(work.exception(), CollectiveMismatchError)


@pytest.mark.parametrize("failing", [0, 1])
def test_one_failed_part_fails_the_whole(pool: CompletionPool, failing: int) -> None:
    parts = [Part(), Part()]
    finished: list[int] = []
    work = work_of(pool, *parts, finish=lambda _: finished.append(1))
    future = work.get_future()
    for index, part in enumerate(parts):
        part.end(CollectiveMismatchError("bad") if index == failing else None)
    with pytest.raises(CollectiveMismatchError):
        work.wait()
    with pytest.raises(RuntimeError, match="bad"):
        future.wait()
    assert finished == []


def test_zero_is_no_timeout_and_a_short_wait_leaves_the_collective_alone(pool: CompletionPool) -> None:
    part = Part()
    work = work_of(pool, part)
    with pytest.raises(CollectiveTimeoutError, match="wait again"):
        work.wait(timedelta(milliseconds=10))
    assert not work.is_completed()
    threading.Timer(0.05, part.end).start()
    assert work.wait(timedelta(0))


def test_handles_are_kept_until_they_are_over_and_others_came(pool: CompletionPool) -> None:
    keeper = KeptHandles()
    part = Part()
    watched = weakref.ref(work_of(pool, part, keeper=keeper))
    for _ in range(KEPT + 10):
        work_of(pool, keeper=keeper)
    assert watched() is not None
    part.end()
    for _ in range(2):
        work_of(pool, keeper=keeper)
    gc.collect()
    assert watched() is None


def test_kept_handles_let_large_tensors_go(pool: CompletionPool) -> None:
    keeper, part, large = KeptHandles(), Part(), torch.ones(SMALL)
    SwitchWork("allreduce", [part], [large], pool, keeper=keeper)
    (kept,) = keeper._handles
    part.end()
    assert kept.wait()
    with pytest.raises(RuntimeError, match="keep its handle"):
        kept.result()
    memory = weakref.ref(large)
    del large
    assert memory() is None


_LEFT_BEHIND = """
import numpy as np, torch
from switchml.torch_backend.completion_pool import CompletionPool
from switchml.torch_backend.kept_handles import KeptHandles
from switchml.torch_backend.switch_work import SwitchWork
from switchml.worker.work import Work

ended = Work.ended(np.empty(0))
left = SwitchWork("x", [ended], [torch.ones(10_000)], CompletionPool("x"), keeper=KeptHandles())
left.itself = left  # so that only the interpreter's end finds it
"""


def test_a_handle_that_is_left_behind_does_not_hold_up_the_end() -> None:
    """At the interpreter's end no thread starts any more."""
    subprocess.run([sys.executable, "-P", "-c", _LEFT_BEHIND], check=True, timeout=90)


def test_a_reason_that_is_known_goes_before_a_parts_error(pool: CompletionPool) -> None:
    part, reason = Part(), CollectiveMismatchError("10 and 11 elements")
    work = work_of(pool, part, explain=lambda error: reason)
    part.end(RuntimeError("connection closed by peer"))
    with pytest.raises(CollectiveMismatchError, match="10 and 11"):
        work.wait()


def test_the_future_is_completed_off_the_wire_thread(pool: CompletionPool) -> None:
    part = Part()
    work = work_of(pool, part)
    seen: list[int] = []
    chained = work.get_future().then(lambda done: (seen.append(threading.get_ident()), done.value())[1])
    assert not work.get_future().done()
    part.end()
    assert torch.equal(chained.wait()[0], torch.ones(2))
    assert seen != [threading.get_ident()]


def test_a_callback_may_wait_for_another_collective(pool: CompletionPool) -> None:
    outer, inner = Part(), Part()
    inner_work = work_of(pool, inner)
    chained = work_of(pool, outer).get_future().then(lambda _: inner_work.get_future().wait())
    outer.end()  # the wire thread comes back from it
    inner.end()
    assert torch.equal(chained.wait()[0], torch.ones(2))


def test_an_error_is_raised_out_of_the_future(pool: CompletionPool) -> None:
    part = Part()
    future = work_of(pool, part).get_future()
    part.end(CollectiveTimeoutError("rank 3 is silent"))
    with pytest.raises(RuntimeError, match="rank 3 is silent"):
        future.wait()
    assert future.done()


def test_after_wait_the_future_is_ready(pool: CompletionPool) -> None:
    for _ in range(50):
        part = Part()
        work = work_of(pool, part)
        future = work.get_future()
        threading.Thread(target=part.end).start()
        work.wait()
        assert future.done()


def test_a_future_asked_for_afterwards_is_ready(pool: CompletionPool) -> None:
    part = Part()
    work = work_of(pool, part)
    part.end()
    work.wait()
    assert work.get_future().done()
    assert work.get_future() is work.get_future()


def test_results_are_brought_home_once(pool: CompletionPool) -> None:
    part = Part()
    finished: list[Any] = []
    work = work_of(pool, part, finish=finished.append)
    future = work.get_future()
    waiters = [threading.Thread(target=work.wait) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    part.end()
    future.wait()
    for waiter in waiters:
        waiter.join()
    assert len(finished) == 1
    assert finished[0][0].tolist() == [1]


def test_results_are_brought_home_without_anybody_waiting(pool: CompletionPool) -> None:
    part = Part()
    home = threading.Event()
    work_of(pool, part, finish=lambda _: home.set())
    gc.collect()
    part.end()
    assert home.wait(5)


def test_a_failure_on_the_way_home_is_the_works(pool: CompletionPool) -> None:
    def finish(_: Any) -> None:
        raise ValueError("does not fit")

    part = Part()
    work = work_of(pool, part, finish=finish)
    part.end()
    with pytest.raises(ValueError, match="does not fit"):
        work.wait()


def test_polling_finishes_too(pool: CompletionPool) -> None:
    part = Part()
    finished: list[Any] = []
    work = work_of(pool, part, finish=finished.append, notify=False)
    part.end()
    assert work.is_completed()
    assert len(finished) == 1


@pytest.mark.parametrize("interest", ["future", "poll"])
def test_unnotified_parts_are_driven_when_somebody_looks(pool: CompletionPool, interest: str) -> None:
    part = Part()
    work = work_of(pool, part, notify=False)
    assert not part.waiting.wait(0.05)
    if interest == "future":
        future = work.get_future()
        assert part.waiting.wait(5)
        part.end()
        assert torch.equal(future.wait()[0], torch.ones(2))
        return
    assert not work.is_completed()
    assert part.waiting.wait(5)
    part.end()
    assert work.wait()


def test_nothing_to_do_is_done(pool: CompletionPool) -> None:
    work = work_of(pool)
    assert work.get_future().wait()
    assert work.wait()


def test_memory_is_held_in_flight_and_let_go_after(pool: CompletionPool) -> None:
    class Buffer:
        pass

    buffer = Buffer()
    held = weakref.ref(buffer)
    part = Part()

    def finish(_: Any, buffer: Buffer = buffer) -> None:
        return

    work = work_of(pool, part, finish=finish)
    future = work.get_future()
    del buffer, finish
    assert held() is not None
    part.end()
    future.wait()
    work.wait()
    part.callbacks.clear()
    assert held() is None


def test_no_single_source() -> None:
    with pytest.raises(RuntimeError, match="no single source rank"):
        work_of(CompletionPool("unused")).source_rank()
