"""Tasks that may wait, one after the other in the order of their submission, on one thread beside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class OrderedTasks:
    """All ranks must submit their collectives in one order; what is submitted later than its caller goes through here.

    Tasks must not raise. The thread starts with the first one and is a daemon.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` after those submitted before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def close(self, timeout: float) -> None:
        """Let the thread end after the tasks it has, and wait for that at most `timeout` seconds."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join(timeout)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # or its tensors live until the next one
