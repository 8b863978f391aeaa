"""Finds ranks that disagree about how a call travels: each would wait on its own path until its timeout. Of a rank that has not
come to a call, and sends to another or receives, it says so when the timeout has passed: until then it may come.

The switch sees disagreements among those that came to it; gloo sees none. Where the two meet is the group's store. Nothing is
written there while calls end in time: only one that is under way for a second is told to the others.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch._C._distributed_c10d import Store, Work

from switchml.errors import CollectiveMismatchError, CollectiveTimeoutError, SwitchMLError
from switchml.torch_backend.kept_handles import KeptHandle
from switchml.torch_backend.routing import Path

PATIENCE = 1.0
"""Seconds after which a call is told to the others."""

LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.25, 2.0
"""Between two looks at the store, the longer a call waits the fewer: others may come minutes later for good reasons."""

LEAVE_SECONDS = 3.0
"""How long a rank that knows waits for the others to know, as the store may go with it."""

_log = logging.getLogger(__name__)


class Said(NamedTuple):
    """What a rank called, as far as ranks must agree."""

    method: str
    path: Path
    dtype: str
    operation: str | None
    elements: int

    def __str__(self) -> str:
        what = f"{self.elements} x {self.dtype}" if self.dtype else ""
        reduced = f", {self.operation}" if self.operation else ""
        return f"{self.method}({what}{reduced}), which goes over {'the ' * (self.path is not Path.GLOO)}{self.path.value}"


def said(method: str, path: Path, tensors: Sequence[torch.Tensor], operation: str | None) -> Said:
    """What a call with these inputs says."""
    dtype = str(tensors[0].dtype) if tensors else ""
    return Said(method, path, dtype, operation, sum(tensor.numel() for tensor in tensors))


class _Call(NamedTuple):
    number: int
    began: float
    said: Said
    handle: weakref.ref[KeptHandle]

    def is_over(self) -> bool:
        handle = self.handle()
        return handle is None or handle.is_over()


class _Transfer(NamedTuple):
    """A call between two ranks."""

    began: float
    what: str
    work: weakref.ref[Work]

    def is_over(self) -> bool:
        work = self.work()
        return work is None or work.is_completed()


class Agreement:
    """One rank's calls that are under way in one group.

    Args:
        store: for this alone.
        rank: this process's in the group.
        world_size: ranks of the group.
        fail: ends everything in flight with the error, and whatever comes later.
    """

    def __init__(
        self, store: Store, rank: int, world_size: int, fail: Callable[[SwitchMLError], None]
    ) -> None:
        self._store, self._rank, self._world_size, self._fail = store, rank, world_size, fail
        self._calls: deque[_Call] = deque()
        self._transfers: deque[_Transfer] = deque()
        self._lock = threading.Lock()
        self._watched = False
        self._told = 0
        self._look_at = 0.0
        self._pause = LOOK_SECONDS
        self._found: tuple[float, CollectiveMismatchError] | None = None
        self._elsewhere = ""
        self._told_elsewhere: list[Any] | None = None
        self._switch_compares = True
        self.count = 0

    def without_switch(self) -> None:
        """What the table sends to the switch goes over gloo in this group, which compares nothing."""
        self._switch_compares = False

    def note(self, said: Said, handle: KeptHandle) -> None:
        """The group's next call. All ranks note all theirs, in order."""
        if self._world_size == 1:
            return
        with self._lock:
            self.count += 1
            self._forget()
            self._calls.append(_Call(self.count, time.monotonic(), said, weakref.ref(handle)))
        self._be_watched()

    def note_transfer(self, what: str, work: Work) -> None:
        """A call between two ranks, which counts for nobody else. what: it is, as "recv from rank 0"."""
        with self._lock:
            self._forget()
            self._transfers.append(_Transfer(time.monotonic(), what, weakref.ref(work)))
        self._be_watched()

    def _be_watched(self) -> None:
        with self._lock:
            watch, self._watched = not self._watched, True
        if watch:
            _WATCH.add(self)

    def explain(self, error: BaseException) -> BaseException:
        """The disagreement, where one is known; else `error`, which may come of another rank's leaving for that reason.

        A timeout says where a rank is that has not come.
        """
        found = self._found
        if found is not None:
            return found[1]
        if self._elsewhere and isinstance(error, CollectiveTimeoutError):
            return CollectiveTimeoutError(f"{error} {self._elsewhere}")
        return error

    def close(self) -> None:
        """Nothing is looked at any more. Idempotent."""
        _WATCH.discard(self)

    def look(self, now: float) -> None:
        """Called every now and then: see to the oldest call that is under way."""
        with self._lock:
            self._forget()
            call = self._calls[0] if self._calls else None
            transfer = self._transfers[0] if self._transfers else None
            count = self.count
        self._tell_elsewhere(transfer, count, now)
        if call is None or now - call.began < PATIENCE:
            return
        if self._found is not None:
            since, error = self._found
            if now - since >= LEAVE_SECONDS or self._store.add("known", 0) >= self._world_size:
                _WATCH.discard(self, wait=False)
                self._fail(error)
            return
        if call.number != self._told:
            self._told, self._pause, self._look_at = call.number, LOOK_SECONDS, now
        if now < self._look_at:
            return
        self._pause = min(2 * self._pause, LONGEST_LOOK_SECONDS)
        self._look_at = now + self._pause
        elsewhere = self._read("elsewhere")
        absent = elsewhere is not None and elsewhere[0] < call.number and elsewhere[1] != self._rank
        self._elsewhere = (
            f"Rank {elsewhere[1]} has not called it: its {elsewhere[2]} has not ended."
            if absent and elsewhere is not None
            else ""
        )
        text = self._compare(call)
        if text:
            self._found = now, CollectiveMismatchError(text)
            self._store.add("known", 1)

    def _forget(self) -> None:
        while self._calls and self._calls[0].is_over():
            self._calls.popleft()
        while self._transfers and self._transfers[0].is_over():
            self._transfers.popleft()

    def _tell_elsewhere(self, transfer: _Transfer | None, count: int, now: float) -> None:
        """Write down what this rank waits for between two ranks, and after how many collectives; take it back when it is over."""
        told = None
        if transfer is not None and now - transfer.began >= PATIENCE:
            told = [count, self._rank, transfer.what]
        if told != self._told_elsewhere:
            self._told_elsewhere = told
            self._store.set("elsewhere", json.dumps(told))

    def _compare(self, call: _Call) -> str:
        """What is wrong, or "" as long as nothing is known to be."""
        found = self._read("found")
        if found is not None and found[0] == call.number:
            return str(found[1])
        mine = call.said
        others = {path: self._told_by_others(path, call.number) for path in Path}
        told = [call.number, self._rank, mine.method, mine.dtype, mine.operation, str(mine)]
        self._store.set(mine.path.value, json.dumps(told))
        for path, other in others.items():
            # The switch finds out by itself what it alone has to do with.
            seen_by_switch = path is Path.SWITCH and self._switch_compares
            if other is None or (path is mine.path and (seen_by_switch or other[2:5] == told[2:5])):
                continue
            text = (
                f"call {call.number} of the group: rank {self._rank} called {mine}, but rank {other[1]}: {other[5]}. "
                "Every rank must call the same collectives in the same order with the same sizes and dtypes"
            )
            self._store.set("found", json.dumps([call.number, text]))
            return text
        return ""

    def _told_by_others(self, path: Path, number: int) -> list[Any] | None:
        told = self._read(path.value)
        return told if told is not None and told[0] == number and told[1] != self._rank else None

    def _read(self, key: str) -> list[Any] | None:
        value: list[Any] | None = json.loads(self._store.get(key)) if self._store.check([key]) else None
        return value


class _Watch:
    """The one thread of a process that looks at its groups; it ends with the last of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._agreements: set[Agreement] = set()
        self._thread: threading.Thread | None = None

    def add(self, agreement: Agreement) -> None:
        with self._changed:
            self._agreements.add(agreement)
            if self._thread is None or not self._thread.is_alive():  # a forked child has none
                self._thread = threading.Thread(target=self._run, name="switchml-agreement", daemon=True)
                self._thread.start()

    def discard(self, agreement: Agreement, *, wait: bool = True) -> None:
        with self._changed:
            self._agreements.discard(agreement)
            if self._agreements:
                return
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join(1.0)  # a store that is gone may hold it longer

    def _run(self) -> None:
        own = threading.current_thread()
        while True:
            with self._changed:
                self._changed.wait(LOOK_SECONDS)
                if self._thread is not own:
                    return
                agreements = list(self._agreements)
            for agreement in agreements:
                try:
                    agreement.look(time.monotonic())
                except Exception as error:
                    # The store is gone, and with it whoever could disagree.
                    _log.debug("comparing calls over the store: %r", error)
                    self.discard(agreement, wait=False)


_WATCH = _Watch()
