"""What a process group holds outside torch: its place in a job on the switch, gloo, and threads."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store

from switchml.control.exits import Stage, close_at_exit
from switchml.control.named_switches import NamedSwitch
from switchml.errors import JoinTimeoutError, SwitchMLError, WorkerClosedError
from switchml.protocol.compiling_signs import telling
from switchml.torch_backend.agreement import Agreement
from switchml.torch_backend.completion_pool import CompletionPool
from switchml.torch_backend.discovery import Placement, find_switches
from switchml.torch_backend.embedded_switch import OF_THIS_PROCESS, EmbeddedSwitches
from switchml.torch_backend.gloo_group import GlooGroup
from switchml.torch_backend.gloo_worker import GlooWorker
from switchml.torch_backend.host_address import (
    HostFacts,
    Hosts,
    facts_of_this_host,
    local_address_towards,
)
from switchml.torch_backend.options import Options
from switchml.torch_backend.rendezvous import compiling, gather_ranks, heard, wait_for_keys
from switchml.torch_backend.solo_worker import SoloWorker
from switchml.variables import quiet
from switchml.worker import Worker
from switchml.worker.collectives import Collectives
from switchml.worker.owner import Owner
from switchml.worker.worker import prepare_engine

# All ranks are known to be there, with nothing left to compile, when the job is joined.
JOIN_SECONDS = 180.0
CLOSE_SECONDS = 2.0

_log = logging.getLogger(__name__)

OpenWorker = Callable[[Placement, Options, float, float], Collectives]
"""(placement, options, join timeout, collective timeout), both in seconds -> joined worker."""


def join_switch(placement: Placement, options: Options, join_timeout: float, timeout: float) -> Collectives:
    """Join the job at the switches as `placement` says; raises what `Worker.join` raises."""
    worker = Worker.join(
        [NamedSwitch(each.address, each.share, each.token) for each in placement.switches],
        job=placement.job,
        rank=placement.rank,
        world_size=placement.world_size,
        transport=options.transport,
        payload=options.payload,
        window=options.window,
        wire=options.wire,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        tls_ca=options.tls_ca,
        join_timeout=join_timeout,
        timeout=timeout,
        multicast=options.multicast,
    )
    if placement.rank == 0 and not quiet():
        embedded = "embedded " if placement.switches[0].embedded else ""
        several = "es" if len(placement.switches) > 1 else ""
        _say(
            f"on the {embedded}switch{several} at {placement.addresses.replace(',', ', ')}"
            f"{', reached over TLS' if options.tls else ''}: {worker.transport}, payload {worker.payload} bytes, "
            f"window {worker.window}, wire {worker.wire}",
            placement.world_size,
        )
    return worker


_said: set[str] = set()


def _say(how: str, world_size: int) -> None:
    """One line on stderr for each way in which this process has jobs on a switch: a program may have a thousand groups."""
    if how not in _said:
        _said.add(how)
        print(f"switchml: a job of {world_size} ranks {how}", file=sys.stderr, flush=True)


class Membership:
    """One rank's membership in one group. Thread-safe.

    Args:
        store: the group's store. Keys get the number of torchrun's attempt and the number of times that this rank has opened
            the group in it, so a group can be created again over a store that outlives it.

    Attributes:
        owner: the process that may use it.
        agreement: told of every collective.

    Raises:
        JoinTimeoutError: ranks are missing; the message names them.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        *,
        group: str,
        timeout: timedelta,
        options: Options,
        open_worker: OpenWorker,
        embedded: EmbeddedSwitches = OF_THIS_PROCESS,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self._group = group
        self._options = options
        self._open_worker = open_worker
        self._embedded = embedded
        # Who died in an earlier attempt of torchrun's may not have opened the group as often as the others.
        attempt = PrefixStore(f"switchml/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        incarnation = attempt.add(f"opened/{rank}", 1)
        self._store = PrefixStore(str(incarnation), attempt)
        self._lock = threading.Lock()
        self.owner = Owner()
        self._closed = False
        self._failure: Exception | None = None
        self._disagreement: SwitchMLError | None = None
        self._placement: Placement | None = None
        self._worker: Collectives | None = SoloWorker() if world_size == 1 else None
        self.pool = CompletionPool(f"switchml-futures-{group[:32]}")
        # Gloo would wait as long, but not say for whom.
        self._creation = PrefixStore("creation", self._store)
        self._host = self._meet(self._creation, timeout.total_seconds())
        self.gloo = GlooGroup(
            PrefixStore("gloo", self._store),
            rank,
            world_size,
            timeout,
            address=local_address_towards(self._host),
        )
        self._gloo_worker = GlooWorker(self.gloo, rank, world_size)
        self.agreement = Agreement(PrefixStore("calls", self._store), rank, world_size, self._disagree)
        _open.add(self)

    def _meet(self, store: Store, timeout: float) -> str:
        """Rank 0's address, once all are there."""
        deadline = time.monotonic() + timeout
        facts = facts_of_this_host(store)
        gather_ranks(store, self.rank, self.world_size, timeout, deadline=deadline, said=facts.to_json())
        if self.rank == 0:
            store.set("host", self._hosts().address_of(0))
        elif not wait_for_keys(store, ["host"], deadline):
            raise JoinTimeoutError(
                f"rank 0 of the group has not said by which address it is reached within its timeout of {timeout:.0f} s"
            )
        return store.get("host").decode()

    def _hosts(self) -> Hosts:
        """The hosts of the ranks, once all have met."""
        return Hosts(tuple(map(HostFacts.from_json, heard(self._creation, self.world_size))))

    @property
    def timeout(self) -> float:
        """Deadline of a collective in seconds."""
        return self.gloo.timeout

    @property
    def options(self) -> Options:
        """The group's options, with the deadline that holds now."""
        return replace(self._options, timeout=timedelta(seconds=self.timeout))

    @property
    def placement(self) -> Placement | None:
        """The place on the switches; None before joining, and in a group of one rank."""
        return self._placement

    def worker(self) -> Collectives:
        """The worker; the first call joins the job, together with all other ranks.

        Raises:
            SwitchMLError: joining failed. Tried once only: the ranks could not meet again on a second attempt.
        """
        worker = self._worker
        if worker is not None:
            return worker
        with self._lock:
            if self._closed:
                raise WorkerClosedError("the process group was shut down; create it anew")
            if self._failure is not None:
                raise self._failure
            if self._worker is None:
                try:
                    self._worker = self._join()
                except Exception as error:
                    self._failure = error
                    raise
            return self._worker

    def check(self) -> None:
        """Raise what keeps this process from using the group: it was forked, or ranks have disagreed."""
        self.owner.check()
        if self._disagreement is not None:
            raise self._disagreement

    def _disagree(self, error: SwitchMLError) -> None:
        self._disagreement = error
        for path in (self._worker, self._gloo_worker):
            if path is not None:
                path.abort(error)

    def gloo_worker(self) -> GlooWorker:
        """Gloo with a worker's methods."""
        return self._gloo_worker

    def _join(self) -> Collectives:
        timeout = self.timeout
        with telling(lambda: compiling(self._store)):
            if self._open_worker is join_switch:
                prepare_engine()
            placement = find_switches(
                self._store,
                self.rank,
                self.world_size,
                group=self._group,
                options=self._options,
                hosts=self._hosts,
                timeout=timeout,
                embedded=self._embedded,
            )
        try:
            worker = self._open_worker(placement, self._options, min(timeout, JOIN_SECONDS), timeout)
        except BaseException:
            self._embedded.release(*placement.switches)
            raise
        self._placement = placement
        return worker

    def counters(self) -> dict[str, int]:
        """This rank's counters of packets and bytes; empty before the first use of the switch."""
        worker = self._worker
        return {} if worker is None else worker.counters()

    def close(self, timeout: float = CLOSE_SECONDS, *, linger: bool = True) -> None:
        """Leave the job and give everything back; collectives in flight fail. Idempotent.

        Args:
            timeout: bounds, in seconds, the wait for threads, and again the wait for gloo.
            linger: where this process runs the embedded switch, and other ranks are still at it: stay until they have
                left, some seconds at most. False leaves that to a thread.
        """
        if not self.owner.is_here():
            return  # a forked child: all of it belongs to the parent
        with self._lock:
            if self._closed:
                return
            self._closed = True
            _open.discard(self)
            worker, self._worker = self._worker, None
        self.agreement.close()
        try:
            if worker is not None:
                worker.leave()
        finally:
            self.pool.close(timeout)
            self.gloo.close(timeout)
            if self._placement is not None:
                self._give_up_switches(self._placement, linger)

    def _give_up_switches(self, placement: Placement, linger: bool) -> None:
        if linger:
            self._embedded.release(*placement.switches)
            return
        leaving = threading.Thread(
            target=self._embedded.release, args=placement.switches, name="switchml-switch-close", daemon=True
        )
        leaving.start()


_open: weakref.WeakSet[Membership] = weakref.WeakSet()


def _close_all() -> None:
    """For programs that end without `destroy_process_group`: gloo's threads would abort the interpreter's end."""
    for membership in list(_open):
        try:
            membership.close()
        except Exception:
            _log.exception("leaving the switch at the end of the program failed")


close_at_exit(Stage.CLIENTS, _close_all)
