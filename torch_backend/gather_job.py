"""The job of a group's large all-gathers. It goes beside that of all else: while gathers come down a link, sums go up."""

from __future__ import annotations

import threading
from collections.abc import Callable

from switchml.errors import SwitchMLError, WorkerClosedError
from switchml.torch_backend.late_worker import LateWorker
from switchml.torch_backend.membership import CLOSE_SECONDS, Membership
from switchml.worker.collectives import Collectives


class GatherJob:
    """Of one group, on one rank.

    Args:
        join: makes the membership of the job; called by all ranks at their first large all-gather, on a thread of its own,
            because it waits for the others.
    """

    def __init__(self, rank: int, world_size: int, join: Callable[[], Membership]) -> None:
        self._join = join
        self._lock = threading.Lock()
        self._late = LateWorker(rank, world_size)
        self._membership: Membership | None = None
        self._error: SwitchMLError | None = None
        self._settled = False
        threading.Thread(target=self._find_place, name="switchml-gathers", daemon=True).start()

    def worker(self) -> Collectives:
        """What carries them.

        Raises:
            SwitchMLError: joining failed, or the job has failed since.
        """
        if self._error is not None:
            raise self._error
        if self._settled and self._membership is not None:
            return self._membership.worker()
        return self._late

    def _find_place(self) -> None:
        try:
            membership = self._join()
            with self._lock:
                self._membership = membership
                is_closed = self._error is not None
            if is_closed:  # meanwhile
                membership.close()
                return
            self._late.settle(membership.worker())
            self._settled = True
        except Exception as error:
            self.abort(
                error if isinstance(error, SwitchMLError) else SwitchMLError(f"joining failed: {error!r}")
            )

    @property
    def carrier(self) -> Collectives | None:
        """What carries them, once that is known."""
        return None if self._membership is None else self._membership.carrier

    def counters(self) -> dict[str, int]:
        """This rank's counters on the switch."""
        return {} if self._membership is None else self._membership.counters()

    def abort(self, error: SwitchMLError) -> None:
        """Fail everything in flight and everything to come."""
        with self._lock:
            if self._error is None:
                self._error = error
        self._late.abort(self._error)
        if self._membership is not None:
            self._membership.abort(self._error)

    def close(self, timeout: float = CLOSE_SECONDS, *, linger: bool = True) -> None:
        """Leave the job; what is in flight fails. Idempotent. For the arguments see `Membership.close`."""
        self.abort(WorkerClosedError("the process group was shut down; create it anew"))
        if self._membership is not None:
            self._membership.close(timeout, linger=linger)
