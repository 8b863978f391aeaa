"""What a process group holds outside torch: its place in a job on the switch, gloo, and threads."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from switchml.control.exits import Stage, close_at_exit
from switchml.control.named_switches import NamedSwitch
from switchml.errors import JoinTimeoutError, PoolExhaustedError, SwitchMLError, WorkerClosedError
from switchml.protocol.compiling_signs import telling
from switchml.torch_backend.agreement import Agreement
from switchml.torch_backend.completion_pool import CompletionPool
from switchml.torch_backend.discovery import Placement, find_switches, remember_shares
from switchml.torch_backend.embedded_switch import OF_THIS_PROCESS, EmbeddedSwitches, SwitchAddress
from switchml.torch_backend.gloo_group import GlooGroup
from switchml.torch_backend.gloo_worker import GlooWorker
from switchml.torch_backend.host_address import (
    HostFacts,
    Hosts,
    facts_of_this_host,
    local_address_towards,
)
from switchml.torch_backend.late_worker import LateWorker
from switchml.torch_backend.options import Options
from switchml.torch_backend.rendezvous import compiling, gather_ranks, heard, wait_for_keys
from switchml.torch_backend.second_connection import second_connection
from switchml.torch_backend.solo_worker import SoloWorker
from switchml.variables import quiet
from switchml.worker import Worker
from switchml.worker.collectives import Collectives
from switchml.worker.owner import Owner
from switchml.worker.work import Work
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
        one_host=placement.one_host,
        recover=options.recover,
    )
    remember_shares(placement, worker.shares)
    _log.info(
        "rank %d of %d has joined job %s at %s: %s",
        placement.rank,
        placement.world_size,
        placement.job,
        placement.addresses,
        worker.transport,
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
_NO_ROOM = "no room"
_TURN = "turn"

_full: dict[tuple[SwitchAddress, ...], tuple[float, str]] = {}
"""Switches that had no room for a group of this process, when, and what they said."""
# Seconds for which that is believed: a program that makes hundreds of groups does not ask for each of them.
_FULL_SECONDS = 5.0


def _say(how: str, world_size: int) -> None:
    """One line on stderr for each way in which this process has jobs on a switch: a program may have a thousand groups."""
    if how not in _said:
        _said.add(how)
        print(f"switchml: a job of {world_size} ranks {how}", file=sys.stderr, flush=True)


def _say_no_room(error: PoolExhaustedError) -> None:
    """Once for all groups."""
    if _NO_ROOM not in _said:
        _said.add(_NO_ROOM)
        print(
            f"switchml: the switch has no room for a group, so it takes gloo, as others may ({error})",
            file=sys.stderr,
            flush=True,
        )


class Abortable(Protocol):
    """Carries collectives."""

    def abort(self, error: SwitchMLError) -> None:
        """Fail everything in flight and everything to come."""


class Membership:
    """One rank's membership in one group. Thread-safe.

    Args:
        store: the group's store. Keys get the number of torchrun's attempt and the number of times that this rank has opened
            the group in it, so a group can be created again over a store that outlives it.

    Attributes:
        owner: the process that may use it.
        agreement: told of every collective.
        others: what carries collectives of the group besides, and fails with it when its ranks disagree.

    Raises:
        JoinTimeoutError: ranks are missing; the message names them.
    """

    # Groups whose places this process is finding, as their rank 0, at a time: each takes threads, and room at the switch.
    _turns = threading.BoundedSemaphore(8)

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
        agree: type[Agreement] = Agreement,
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
        self._closing = threading.Event()
        self._failure: SwitchMLError | None = None
        self._disagreement: SwitchMLError | None = None
        self._placement: Placement | None = None
        self._worker: Collectives | None = SoloWorker() if world_size == 1 else None
        self.pool = CompletionPool(f"switchml-futures-{group[:32]}")
        # Gloo would wait as long, but not say for whom.
        self._creation = PrefixStore("creation", self._store)
        self._host, secret = self._meet(self._creation, timeout.total_seconds())
        self._beside = second_connection(store)
        self._joining = PrefixStore(f"switchml/{secret}", self._beside)
        self.gloo = GlooGroup(
            PrefixStore("gloo", self._store),
            rank,
            world_size,
            timeout,
            address=local_address_towards(self._host),
        )
        self._gloo_worker = GlooWorker(self.gloo, rank, world_size)
        self._gloo_worker.wire = self._options.wire
        self.others: list[Abortable] = []
        self.agreement = agree(PrefixStore("calls", self._store), rank, world_size, self.abort)
        _open.add(self)

    def _meet(self, store: Store, timeout: float) -> tuple[str, str]:
        """Rank 0's address, and a name for the group that no other has, once all are there."""
        deadline = time.monotonic() + timeout
        facts = facts_of_this_host(store)
        gather_ranks(store, self.rank, self.world_size, timeout, deadline=deadline, said=facts.to_json())
        if self.rank == 0:
            store.set("host", json.dumps([self._hosts().address_of(0), secrets.token_hex(8)]))
        elif not wait_for_keys(store, ["host"], deadline):
            raise JoinTimeoutError(
                f"rank 0 of the group has not said by which address it is reached within its timeout of {timeout:.0f} s"
            )
        host, secret = json.loads(store.get("host"))
        return host, secret

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

    @property
    def carrier(self) -> Collectives | None:
        """What `worker` would give, where it is there already and calls may go to it."""
        return None if self._disagreement is not None else self._worker

    def worker(self) -> Collectives:
        """What carries the group's collectives. The first call begins to join the job, beside the caller.

        Raises:
            SwitchMLError: joining failed. Tried once only: the ranks could not meet again on a second attempt.
        """
        worker = self._worker
        if worker is not None:
            return worker
        worker, late = self._begin()
        if late is not None:
            self.pool.submit(lambda: self._find_place(late))
        return worker

    def join(self) -> None:
        """Join the job now; without room for it that is an error.

        Raises:
            SwitchMLError: joining failed.
        """
        _, late = self._begin()
        if late is not None:
            self._find_place(late, has_to_fit=True)
        if self._failure is not None:
            raise self._failure

    def _begin(self) -> tuple[Collectives, LateWorker | None]:
        """The worker, and itself again where it is a new one, whose place is still to be found."""
        with self._lock:
            if self._closing.is_set():
                raise WorkerClosedError("the process group was shut down; create it anew")
            if self._failure is not None:
                raise self._failure
            if self._worker is not None:
                return self._worker, None
            late = LateWorker(self.rank, self.world_size)
            late.wire = self._options.wire
            self._worker = late
            return late, late

    def check(self) -> None:
        """Raise what keeps this process from using the group: it was forked, or ranks have disagreed."""
        self.owner.check()
        if self._disagreement is not None:
            raise self._disagreement

    def abort(self, error: SwitchMLError) -> None:
        """Fail everything in flight and everything to come."""
        self._disagreement = error
        for path in (self._worker, self._gloo_worker, *self.others):
            if path is not None:
                path.abort(error)

    def gloo_worker(self) -> Collectives:
        """Gloo with a worker's methods."""
        worker = self._worker
        return worker.beside(self._gloo_worker) if isinstance(worker, LateWorker) else self._gloo_worker

    def by_gloo(self, begin: Callable[[dist.ProcessGroup], dist.Work], what: str) -> Work:
        """A collective of gloo's own.

        Args:
            begin: calls it, of the group that it is given.
            what: for messages.
        """

        def follow() -> Work:
            return self._gloo_worker.follow(begin(self.gloo.group), what)

        worker = self._worker
        return worker.in_order(follow, what) if isinstance(worker, LateWorker) else follow()

    def _find_place(self, late: LateWorker, *, has_to_fit: bool = False) -> None:
        """Join the job, or take gloo where the switch has no room for it; `late` hands on what has come meanwhile."""
        try:
            placement, carrier = self._place(has_to_fit)
        except Exception as error:
            if self._closing.is_set():
                late.leave()
                return
            failure = (
                error if isinstance(error, SwitchMLError) else SwitchMLError(f"joining failed: {error!r}")
            )
            with self._lock:
                self._failure, self._worker = failure, None
            late.abort(failure)
            return
        with self._lock:
            is_closed = self._closing.is_set()
            if not is_closed:
                self._placement = placement
                late.settle(carrier)
                self._worker = carrier
        if is_closed and placement is not None:
            carrier.leave()
            self._embedded.release(*placement.switches)

    def _place(self, has_to_fit: bool) -> tuple[Placement | None, Collectives]:
        try:
            return self._join(has_to_fit)
        except PoolExhaustedError as error:
            if has_to_fit:
                raise
            if self.rank == 0 and not quiet():
                _say_no_room(error)
        # All ranks come here, or none: only a job whose ranks have all joined is told that there is no room.
        self.agreement.without_switch()
        return None, self._gloo_worker

    def _join(self, has_to_fit: bool) -> tuple[Placement, Collectives]:
        timeout, one_host = self.timeout, self._hosts().are_one()
        with telling(lambda: compiling(self._joining)):
            if self._open_worker is join_switch:
                prepare_engine(self._options.transport, one_host)
            placement = find_switches(
                self._joining,
                self.rank,
                self.world_size,
                group=self._group,
                options=self._options,
                hosts=self._hosts,
                timeout=timeout,
                embedded=self._embedded,
                given_up=self._closing,
            )
        placement = replace(placement, one_host=one_host)
        try:
            with self._turn(placement.switches, has_to_fit):
                return placement, self._open_worker(
                    placement, self._options, min(timeout, JOIN_SECONDS), timeout
                )
        except BaseException:
            self._embedded.release(*placement.switches)
            raise

    @contextlib.contextmanager
    def _turn(self, switches: tuple[SwitchAddress, ...], has_to_fit: bool) -> Iterator[None]:
        """The others wait for rank 0, which waits for nobody but the switch: so all take their turns in an order that ends.

        Raises:
            PoolExhaustedError: rank 0 knows that the switch has no room.
        """
        if self.rank:
            wait_for_keys(self._joining, [_TURN], time.monotonic() + JOIN_SECONDS, self._closing)
            full = self._joining.get(_TURN).decode() if self._joining.check([_TURN]) else ""
            if full:
                raise PoolExhaustedError(full)
            yield
            return
        with self._turns:
            since, full = _full.get(switches, (-math.inf, ""))
            if has_to_fit or time.monotonic() - since > _FULL_SECONDS:
                full = ""
            self._joining.set(_TURN, full)
            if full:
                raise PoolExhaustedError(full)
            try:
                yield
            except PoolExhaustedError as error:
                _full[switches] = time.monotonic(), str(error)
                raise

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
            if self._closing.is_set():
                return
            self._closing.set()
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
                _full.pop(self._placement.switches, None)
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
