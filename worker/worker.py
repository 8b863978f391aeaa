"""The worker: one rank of one job, on one switch or on several."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
from typing_extensions import override

from switchml.control.client import ControlClient
from switchml.control.control_messages import JoinOffer
from switchml.control.exits import in_a_line
from switchml.control.heartbeat import Departures
from switchml.control.named_switches import NamedSwitch, checked, in_turn, parse_switches
from switchml.control.tls import ClientTls, TlsFiles
from switchml.errors import (
    CollectiveMismatchError,
    JobAbortedError,
    JoinError,
    SwitchMLError,
    SwitchUnreachableError,
    UsageError,
)
from switchml.protocol.messages import FLOAT32, WIRES
from switchml.protocol.numerics import error_bound
from switchml.variables import heed_environment, seconds_to_recover
from switchml.worker.collectives import (
    Array,
    Call,
    Collectives,
    Direct,
    Gathered,
    Part,
    Pipeline,
    Strategy,
    nothing,
)
from switchml.worker.dealing import deal
from switchml.worker.entry import prepare_entry
from switchml.worker.owner import Owner
from switchml.worker.prepared import PreparedPlans
from switchml.worker.pulse import prepare_pulse
from switchml.worker.seat import Revival, Seat, expects_memory, prepare_loop
from switchml.worker.signature import Signature
from switchml.worker.speeds import LONG_ENOUGH, TRIED_WORDS, shares_by_speed
from switchml.worker.stream import closed
from switchml.worker.tally import Tally
from switchml.worker.transfer import Share
from switchml.worker.window import WORDS
from switchml.worker.work import Work

_SPIN_NS = 50_000
_READY_AGAIN = 60.0  # seconds for a new epoch's ranks to get ready
_ONE_SWITCH = (
    "ranks come and go at one switch, which is where they meet; several cannot agree on who is there"
)
_LAST_WORDS = 1.0  # seconds in which the other switches may say why a job cannot be


def prepare_engine(transport: str = "auto", one_host: bool = True) -> None:
    """Compile what a worker needs before it knows its switch, or load it. `Worker.join` does the rest before its time begins.

    Args:
        transport: of the worker.
        one_host: whether all ranks of the job are on this host, where "auto" mostly finds the switch in memory.
    """
    prepare_loop(transport == "memory" or (transport == "auto" and one_host))
    prepare_entry()
    prepare_pulse()


def _connect(address: str, timeout: float, token: str, tls: ClientTls | None, patient: bool) -> ControlClient:
    return ControlClient(address, token=token, timeout=timeout, tls=tls, patient=patient)


def _first(addresses: Sequence[str], timeout: float, token: str, tls: ClientTls | None) -> ControlClient:
    """To the first switch that answers, of one and those that stand in for it."""
    for address in addresses[:-1]:
        with contextlib.suppress(SwitchUnreachableError):
            return _connect(address, timeout, token, tls, False)
    return _connect(addresses[-1], timeout, token, tls, False)


def _named(take: Callable[[ControlClient, Revival], Seat], client: ControlClient, revival: Revival) -> Seat:
    try:
        return take(client, revival)
    except SwitchMLError as error:
        raise type(error)(f"at the switch {client.address}: {error}") from error


def _at_once(
    job: str,
    take: Callable[[ControlClient, Revival], Seat],
    clients: Sequence[ControlClient],
    revivals: Sequence[Revival],
) -> list[Seat]:
    """Take seats at all switches at once, so that ranks which name them in different orders do not wait for each other.

    Where one cannot be had, the error says where, and nothing is kept.
    """
    if len(clients) == 1:
        return [take(clients[0], revivals[0])]

    def give_up(reason: str) -> None:
        for client, one in zip(clients, taking, strict=True):
            if one.done() and one.exception() is None:
                one.result().leave(closed(job), reason)
            client.close()  # ends what it waits for
            client.leave()  # what came of it after that

    with ThreadPoolExecutor(len(clients), "switchml-join") as threads:
        taking = [threads.submit(_named, take, *each) for each in zip(clients, revivals, strict=True)]
        try:
            if any(one.exception() for one in wait(taking, return_when=FIRST_EXCEPTION).done):
                wait(taking, _LAST_WORDS)
            errors = [error for one in taking if one.done() and (error := one.exception()) is not None]
            if errors:
                # Where others have left already, that is not why.
                raise min(errors, key=lambda error: isinstance(error, JobAbortedError))
            return [one.result() for one in taking]
        except BaseException as error:
            give_up(in_a_line(error))
            wait(taking)
            give_up("")
            raise


class Worker(Collectives):
    """One rank of a job. Made by `join`; a context manager that leaves on exit.

    Collectives may be submitted from any thread, but all ranks must submit the same ones in the same order. On several switches
    each sums its share of what is large; bits and order of results are those of one switch.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: ranks of the job.
        job: its name.
        transport: "udp", "shm" or "memory"; of several switches, all that there are, with a plus between them.
        multicast: whether results come by multicast, from every switch.
        payload: bytes a packet.
        window: slots, at the switch that has fewest.
        shares: of the switches, as they are named: how much of what is large each sums.
        wire: what float32 sums travel as.
        epoch: how often the job had regrouped when this was made.
        survivors: ranks below it were in the epoch before, the others are new; `world_size` in the first.
    """

    def __init__(self, seats: Sequence[Seat], shares: Sequence[int], timeout: float) -> None:
        offer = seats[0].offer
        self.epoch, self.survivors = seats[0].epoch, seats[0].survivors
        self.rank = offer.rank
        self.world_size = offer.world_size
        self.job = offer.job
        self.transport = "+".join(sorted({seat.transport for seat in seats}))
        self.multicast = all(seat.multicast for seat in seats)
        self.payload = seats[0].payload
        self.window = min(seat.window for seat in seats)
        self.wire = offer.wire
        self._bits = WIRES[offer.wire].lane_bits
        self._seats = tuple(seats)
        self.shares = tuple(shares)
        self._timeout = timeout
        self._tally = Tally(self.abort)
        self._owner = Owner()
        self._lock = threading.Lock()
        self._left = False
        if len(seats) == 1:
            self.plans = PreparedPlans(
                self.rank,
                self.world_size,
                self.wire,
                self._bits,
                self.job,
                timeout,
                seats[0].stream,
                self._tally,
                self._owner,
            )
        for seat in seats:
            seat.report_to(self.abort, self._others_left, lambda: self._tally.finished)

    @classmethod
    def join(
        cls,
        switch: str | Sequence[NamedSwitch],
        *,
        job: str,
        rank: int | None,
        world_size: int | None,
        transport: str = "auto",
        payload: int = 0,
        window: int = 0,
        wire: str = FLOAT32,
        token: str | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        tls_ca: str | Path | None = None,
        join_timeout: float = 60.0,
        timeout: float = 300.0,
        multicast: bool = True,
        paper: bool = False,
        one_host: bool = True,
        recover: float | None = None,
    ) -> Worker:
        """Join a job at the switch whose control service is at `switch` (host:port); returns when all ranks have.

        Args:
            switch: host:port. Several, with commas between them, sum a part of every large tensor each: in proportion to shares
                that stand with the addresses, as in "a:50551,b:50551*3", else to their speed, which is measured here, in some
                tenths of a second. All ranks name the same ones in the same order. Switches with tokens of their own come as a
                sequence. In "a:50551/c:50551" c stands in for a when that is gone; see `recover`.
            job: its name.
            rank: 0 to world_size - 1. None, for both, comes into a job that runs already, when its ranks call `regroup`.
            world_size: ranks of the job.
            transport: "udp": packets; "shm": packets through shared memory, where worker and switch share a host; "memory": there
                the workers run the slot machine themselves, on memory that all share; "auto" takes the last of these that all
                ranks of the job and the switch can.
            payload: bytes a packet, at all switches; 0 takes the switches' own, where that is the same.
            window: slots; 0 takes the switch's.
            wire: what float32 sums (and those of float16 and bfloat16) travel as: "float32" (as int32), or rounded into lanes of
                "int16" or "int8", two or four to the place of one. The same on all ranks.
            token: what the switch wants to see; None takes SWITCHML_TOKEN, "" none.
            tls_cert: PEM file of this worker's certificate, for a switch that asks; None takes SWITCHML_TLS_CERT, "" none.
            tls_key: PEM file of its key; likewise SWITCHML_TLS_KEY.
            tls_ca: PEM file of the switch's authority; likewise SWITCHML_TLS_CA. Without any of the three: in the clear.
            join_timeout: seconds for joining, after the switch was found and whatever has to be compiled is; for a rank that
                comes into a job, until the others regroup.
            timeout: seconds for a collective.
            multicast: False asks for results by unicast.
            paper: run the slot machine as published, without stamps.
            recover: seconds for which the job tries to go on when its switch is gone: at the same address, where it may have been
                started again, or at one that stands in for it. What is under way is finished there, to the same bits. Costs a
                copy of each packet. 0: the job ends at once; None takes SWITCHML_RECOVER, else 0. The same on all ranks.
            one_host: False where ranks are known to be on several hosts: saves compiling what only a switch in memory needs.

        Raises:
            SwitchUnreachableError, TlsError, JoinError, UsageError: see switchml/errors.py.
        """
        heed_environment()
        switches = parse_switches(switch) if isinstance(switch, str) else checked(switch)
        if token is None:
            token = os.environ.get("SWITCHML_TOKEN", "")
        tls = TlsFiles.given(tls_cert, tls_key, tls_ca).client()
        if recover is None:
            recover = seconds_to_recover()
        if not recover >= 0:
            raise UsageError(f"recover {recover}: use a number of seconds, or 0")
        enters = rank is None
        if enters != (world_size is None):
            raise UsageError("rank and world_size: give both, or None for both to come into a job that runs")
        if enters and len(switches) > 1:
            raise UsageError(f"job {job!r}: {_ONE_SWITCH}")
        with contextlib.ExitStack() as undo:
            clients, revivals = [], []
            for one in switches:
                own = token if one.token is None else one.token
                addresses = tuple(in_turn(one.address))
                client = _first(addresses, min(10.0, join_timeout), own, tls)
                undo.callback(client.close)
                clients.append(client)
                connect = partial(_connect, token=own, tls=tls, patient=True)
                revivals.append(Revival(recover, connect, addresses))
            prepare_entry()
            prepare_pulse()
            for client in clients:
                may_be = transport == "auto" and one_host
                prepare_loop(transport == "memory" or (may_be and expects_memory(client.discover(), paper)))
            offer = JoinOffer(
                job=job,
                rank=0 if rank is None else rank,
                world_size=1 if world_size is None else world_size,
                enters=enters,
                payload=payload,
                window=window,
                paper=paper,
                wire=wire,
            )

            def take(client: ControlClient, revival: Revival) -> Seat:
                return Seat.take(
                    client,
                    offer,
                    transport=transport,
                    multicast=multicast,
                    timeout=join_timeout,
                    spin_ns=_SPIN_NS // len(clients),
                    share=len(clients),
                    revival=revival,
                )

            seats = _at_once(job, take, clients, revivals)
            for seat in seats:
                undo.callback(seat.leave, closed(job))
            if len({seat.payload for seat in seats}) > 1:
                each = ", ".join(
                    f"{client.address} {seat.payload}" for client, seat in zip(clients, seats, strict=True)
                )
                raise JoinError(
                    f"the switches of job {job!r} have packets of different size ({each} bytes); ask for one that all take, by "
                    "payload or SWITCHML_PAYLOAD"
                )
            given = [one.share for one in switches]
            worker = cls(seats, [share or 1 for share in given], timeout)
            if len(seats) > 1:
                # Anew: a loop may have been compiled meanwhile.
                until = time.monotonic_ns() + int(join_timeout * 1e9)
                worker._agree(repr(given), until)
                if not any(given):
                    worker._measure(until)
            undo.pop_all()
        return worker

    def _agree(self, shares: str, deadline: int) -> None:
        """See that all ranks have the same switches in the same order, with the same shares: else sums would be wrong."""
        digest = int.from_bytes(hashlib.sha256(shares.encode()).digest()[:5], "big")
        try:
            works = [
                self._through(
                    index, nothing(), Signature("switches", "bytes", "none", digest, detail=index), deadline
                )
                for index in range(len(self._seats))
            ]
            # All of them first: who went at the first that differs could leave another rank waiting at the next switch.
            for work in works:
                with contextlib.suppress(CollectiveMismatchError):
                    work.wait()
            for work in works:
                work.wait()
        except CollectiveMismatchError as error:
            raise JoinError(
                f"the ranks of job {self.job!r} do not name the same switches in the same order with the same shares; see "
                "what each gives as its switch"
            ) from error

    def _measure(self, deadline: int) -> None:
        """Set the shares by how long each switch takes, all at work, as the rank sees it that waits longest."""
        count = len(self._seats)
        slowest = np.zeros(count)
        for words in TRIED_WORDS:
            values = np.ones((count, words), np.uint32)
            seconds = np.zeros(count)
            began = time.perf_counter()

            def note(index: int, seconds: Array = seconds, began: float = began) -> None:
                seconds[index] = time.perf_counter() - began

            works = []
            for index, row in enumerate(values):
                whole = Direct(Part(WORDS, words, row, row))
                signature = Signature("switches", "int32", "sum", words, detail=index)
                works.append(self._through(index, whole, signature, deadline, partial(note, index)))
            for work in works:
                work.wait()
            gathered = Gathered(seconds, slowest, "float64", "max", Share(self.rank), self.world_size)
            self._through(0, gathered, Signature("switches", "float64", "max", count), deadline).wait()
            if slowest.max() >= LONG_ENOUGH:
                break
        self.shares = shares_by_speed(slowest.tolist())

    def _through(
        self,
        index: int,
        strategy: Strategy,
        signature: Signature,
        deadline: int,
        ended: Callable[[], None] | None = None,
    ) -> Work:
        """What no caller asked for, through one switch. `ended` is called first of all when it has ended well."""
        stream = self._seats[index].stream
        work = Work(stream, f"the first meeting of job {self.job!r}", np.zeros(0, np.uint8))

        def done(_: int) -> None:
            if ended is not None:
                ended()
            work.finish()

        stream.submit(Pipeline(strategy, signature, deadline, done, work.finish), True)
        return work

    def counters(self) -> dict[str, int]:
        """Counters of this worker by name (protocol/counters.py), of all its streams together."""
        total: Counter[str] = Counter()
        for seat in self._seats:
            total.update(seat.counters())
        return dict(total)

    def outages(self) -> tuple[float, ...]:
        """Seconds for which a switch was gone, each time that the job went on at the next: see `join`'s `recover`."""
        return tuple(seconds for seat in self._seats for seconds in seat.outages)

    @property
    def newcomers(self) -> int:
        """Ranks that wait to enter the job, as far as this rank has been told: others may know of more, or less."""
        return self._seats[0].newcomers

    def regroup(self, *, within: float = 1.0) -> Worker:
        """Go on with those ranks that live, and with the newcomers that wait; all who live call this.

        For after a JobAbortedError that says that ranks have died or left, and for the border of a step, to let newcomers in. The
        switch closes the group when all that live have called, or `within` seconds after the first call. Ranks get new numbers,
        the survivors' in their old order. What ranks hold, they bring in line themselves, as by broadcast from rank 0, always a
        survivor.

        Args:
            within: seconds for the others, more than they spend between two collectives; of several, the shortest counts.

        Returns:
            This rank's place in the next epoch of the job. This worker is left, also where there is none.

        Raises:
            LeftBehindError: the others have gone on without this rank, which called too late.
            SwitchGoneError, SwitchUnreachableError: there is no switch that knows of the job.
            JoinError: the next epoch cannot be: the message says why.
            UsageError: the job is on several switches.
        """
        self._owner.check()
        if not within > 0:
            raise UsageError(f"within {within}: use a positive number of seconds")
        if len(self._seats) > 1:
            raise UsageError(f"job {self.job!r}: {_ONE_SWITCH}")
        with self._lock:
            if self._left:
                raise closed(self.job)
            self._left = True
        self.abort(closed(self.job))
        return Worker([self._seats[0].regroup(within, _READY_AGAIN)], [1], self._timeout)

    @override
    def abort(self, error: SwitchMLError) -> None:
        # What has broken one stream, breaks the others.
        for seat in self._seats:
            if seat.stream.error is None:
                seat.stream.abort(error)

    def leave(self, reason: str = "") -> None:
        """Leave the job. Idempotent; works in flight fail with WorkerClosedError. A forked child does nothing.

        Args:
            reason: what the others are told, if they have a collective under way that needs this rank; by default
                the exception that is being handled, else what has ended the collectives here.
        """
        if not self._owner.is_here():
            return
        error = sys.exc_info()[1] or self._seats[0].stream.error
        if not reason and error is not None:
            reason = in_a_line(error)
        with self._lock:
            if self._left:
                return
            self._left = True
        self.abort(closed(self.job))
        for seat in self._seats:
            seat.leave(closed(self.job), reason)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave("" if error is None else in_a_line(error))

    def _submit(self, call: Call, timeout: float | None, notify: bool) -> Work:
        self._owner.check()
        said, tally = call.signature, self._tally
        deadline = time.monotonic_ns() + int((self._timeout if timeout is None else timeout) * 1e9)
        left, highest = 0, -128

        def done(part_highest: int) -> None:
            nonlocal highest, left
            with tally.lock:
                left -= 1
                highest = max(highest, part_highest)
                if left:
                    return
                tally.finished += 1
            tally.end_if_alone()
            try:
                call.finish()
            except Exception as error:
                work.finish(error)
                return
            work.finish(bound=error_bound(highest, self.world_size, self._bits) * call.bound)

        def fail(error: BaseException) -> None:
            if isinstance(error, SwitchMLError):
                self.abort(error)
            work.finish(error)

        strategy = call.strategy()
        with tally.lock:
            parts = deal(strategy, tally.called, self.shares, self.payload)
            signature = Signature(
                said.collective, said.dtype, said.op, said.elements, tally.called, said.detail
            )
            tally.called += 1
            left = len(parts)
            # Whoever waits drives one stream; of several each has its own thread.
            work = Work(
                self._seats[parts[0][0]].stream if left == 1 else None,
                signature,
                call.result,
                self.job,
                self._owner,
            )
            for index, part in parts:
                pipeline = Pipeline(part, signature, deadline, done, fail)
                self._seats[index].stream.submit(pipeline, notify or left > 1)
        tally.end_if_alone()
        return work

    def _others_left(self, departures: Departures) -> None:
        """Ranks have left in order. What they have finished, all can finish; what they have not, nobody."""
        said = [
            (each.calls, rank, each.reason) for rank, each in departures.items() if each.calls is not None
        ]
        if said:
            calls, rank, reason = min(said)
            why = f" ({reason})" if reason else ""
            told = f"job {self.job!r}: rank {rank} has left{why} after {calls} collectives, and this rank has called more"
            self._tally.limit = calls, JobAbortedError(told)
            self._tally.end_if_alone()
