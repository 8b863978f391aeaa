"""Threads that complete futures.

Callbacks of a future run inside `set_result`, and they may wait for another collective of the same group (PowerSGD's
do). So futures are never completed on the thread that moves packets, and there is always one more thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

# Long enough for the next bucket of the same backward pass, short enough that idle programs keep no threads.
IDLE_SECONDS = 5.0


class CompletionPool:
    """Runs each task at once: on an idle thread if there is one, else on a new one. Threads are daemons."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._tasks: deque[Callable[[], None]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closing = False

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task`, which must not raise; also allowed after `close`. Blocks only where no thread can be had."""
        with self._changed:
            self._tasks.append(task)
            if self._idle >= len(self._tasks):
                self._changed.notify()
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads: the interpreter ends, or a limit is reached
                self._tasks.pop()
            else:
                self._threads.add(thread)
                return
        task()

    def close(self, timeout: float) -> bool:
        """Let threads end when they have nothing left to do. True if they did within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        while (task := self._next_task()) is not None:
            task()
            del task  # or its tensors live until the next one

    def _next_task(self) -> Callable[[], None] | None:
        with self._changed:
            if not self._tasks and not self._closing:
                self._idle += 1
                self._changed.wait_for(lambda: self._tasks or self._closing, IDLE_SECONDS)
                self._idle -= 1
            if self._tasks:
                return self._tasks.popleft()
            self._threads.discard(threading.current_thread())
            return None
