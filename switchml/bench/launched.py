"""A benchmark as one rank a process: those that torchrun, mpirun or Slurm started do what one process does with its children.

All ranks go through the same measurement in step. After each command they tell each other their answers in torch's rendezvous
store, so that each of them knows what one process would know, and decides the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from switchml.bench import rank_protocol
from switchml.bench.allreduce import Plan, job_options
from switchml.bench.rank import Rank, resident
from switchml.bench.systems.catalogue import Entry, Place, load
from switchml.bench.verification import Verdict
from switchml.control.named_switches import NamedSwitch
from switchml.errors import BenchError, SwitchMLError, UsageError
from switchml.launchers import Started, meeting_place
from switchml.torch_backend.discovery import Placement, find_switches
from switchml.torch_backend.embedded_switch import OF_THIS_PROCESS
from switchml.torch_backend.host_address import HostFacts, Hosts, facts_of_this_host, interface_of
from switchml.torch_backend.options import Options

_LEAVE_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
_FAILED = "failed"


class ToldError(BenchError):
    """Another rank has failed, and says so itself."""


@contextlib.contextmanager
def together(started: Started, timeout: float) -> Iterator[Meeting]:
    """All ranks do what is inside, or none ends well.

    A failure is told by the rank that failed, and by rank 0, and ends this process at once: what libraries do at an orderly end
    may wait for ranks that cannot come any more.

    Args:
        started: this rank.
        timeout: seconds that the ranks may take until all are there.
    """
    meeting = None
    try:
        meeting = Meeting(started, timeout)
        yield meeting
        meeting.leave()
    except SwitchMLError as error:
        told = isinstance(error, ToldError)
        if meeting is not None and not told:
            meeting.fail(error)
        if started.rank == 0 or not told:
            print(f"switchml: rank {started.rank} of {started.size}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


class Meeting:
    """The ranks of a run, in torch's store.

    Attributes:
        started: this one.
        store: torch's.
        hosts: of all ranks.
    """

    def __init__(self, started: Started, timeout: float) -> None:
        """Returns when all ranks are there.

        Args:
            started: this one.
            timeout: seconds that they may take.

        Raises:
            UsageError: where they meet cannot be told.
            BenchError: they do not come in time.
        """
        self.started = started
        host, port = meeting_place(started, os.environ)
        variables = {
            "RANK": started.rank, "WORLD_SIZE": started.size, "MASTER_ADDR": host, "MASTER_PORT": port
        }  # fmt: skip
        os.environ.update({name: str(value) for name, value in variables.items()})
        try:
            self.store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
        except (RuntimeError, OSError) as error:
            raise BenchError(
                f"the ranks did not meet at {host}, port {port}, within {timeout:g} s ({error}); see whether all were started, "
                "reach that address, and nobody else listens there: MASTER_ADDR and MASTER_PORT name another"
            ) from error
        self._own = PrefixStore("bench", self.store)
        self._steps = 0
        facts = self.gather(facts_of_this_host(self.store).to_json(), timeout, "the start")
        self.hosts = Hosts(tuple(map(HostFacts.from_json, facts)))

    @property
    def a_host(self) -> int:
        """Ranks on the host that has most of them."""
        return max(Counter(facts.machine for facts in self.hosts.facts).values())

    @property
    def interface(self) -> str:
        """Of this host, towards the others; "" where it cannot be told."""
        return interface_of(self.hosts.address_of(self.started.rank))

    def agree(self, what: Any, timeout: float) -> None:
        """All ranks have to want the same.

        Raises:
            UsageError: they do not.
        """
        texts = self.gather(json.dumps(what, default=str), timeout, "the arguments")
        others = [str(rank) for rank, text in enumerate(texts) if text != texts[0]]
        if others:
            raise UsageError(
                f"rank {', '.join(others)} was started with other arguments than rank 0: give all the same"
            )

    def gather(self, said: str, timeout: float, what: str) -> list[str]:
        """What every rank says, by rank. Called by all, in the same order.

        Args:
            said: by this one.
            timeout: seconds that the others may take.
            what: this is about, for messages.

        Raises:
            BenchError: a rank has failed, or says nothing in time.
        """
        keys = [f"{self._steps}/{rank}" for rank in range(self.started.size)]
        self._steps += 1
        with self._kept_by_rank_0():
            self._own.set(keys[self.started.rank], said)
            self._wait(keys, timeout, what)
            return [self._own.get(key).decode() for key in keys]

    def fail(self, error: SwitchMLError) -> None:
        """Tell the others that this rank cannot go on."""
        with contextlib.suppress(RuntimeError):
            self._own.set(_FAILED, f"rank {self.started.rank}: {error}")

    def leave(self) -> None:
        """The last thing done together: rank 0, which may keep the store, stays until the others have read all."""
        keys = [f"left/{rank}" for rank in range(1, self.started.size)]
        with contextlib.suppress(BenchError), self._kept_by_rank_0():
            if self.started.rank:
                self._own.set(keys[self.started.rank - 1], "1")
            elif keys:
                self._wait(keys, _LEAVE_SECONDS, "the end")

    def _wait(self, keys: list[str], timeout: float, what: str) -> None:
        # Asks again and again: the store's own wait hears neither signals nor failures.
        deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
        while not self._own.check(keys):
            if self._own.check([_FAILED]):
                raise ToldError(self._own.get(_FAILED).decode())
            if time.monotonic() > deadline:
                silent = [key.rpartition("/")[2] for key in keys if not self._own.check([key])]
                raise BenchError(
                    f"no answer of rank {', '.join(silent)} within {timeout:g} s ({what}); see whether it is running"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @contextlib.contextmanager
    def _kept_by_rank_0(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, SwitchMLError):
                raise
            raise ToldError(f"rank 0, or what keeps the ranks' store, is gone ({error})") from error


class LaunchedGroup:
    """This rank of a system, and through the meeting all the others: stands in for a `RankGroup`.

    Attributes:
        entry: the system.
        name: its name.
        facts: what rank 0 says of it.
    """

    def __init__(self, entry: Entry, place: Place, meeting: Meeting, timeout: float) -> None:
        """Returns when all ranks have joined.

        Raises:
            BenchError: one has not.
        """
        self.entry = entry
        self.name = entry.name
        self._place = place
        self._meeting = meeting
        self.facts: dict[str, Any] = self._together(self._open, timeout, "Join")[0]

    def _open(self) -> dict[str, Any]:
        before = resident()
        self._system = load(self.entry.rank)
        loaded = resident()
        self._system.open(self._place)
        self._rank = Rank(self._system, self._place, before, loaded)
        return self._system.describe()

    def ask(self, command: Any, timeout: float) -> list[Any]:
        """Carry out a command, as all ranks do. See `RankGroup.ask`."""
        answers = self._together(lambda: self._rank.answer(command), timeout, type(command).__name__)
        if isinstance(command, rank_protocol.Check):
            return [Verdict(**answer) for answer in answers]
        return answers

    def counters(self, timeout: float) -> dict[str, int]:
        """See `RankGroup.counters`."""
        total: Counter[str] = Counter()
        for counters in self.ask(rank_protocol.Counters(), timeout):
            total.update(counters)
        return dict(total)

    def _together(self, act: Any, timeout: float, what: str) -> list[Any]:
        """What `act` returns on each rank."""
        try:
            answer = act()
        except Exception as error:
            raise BenchError(f"{self.name}: {type(error).__name__}: {error}") from error
        said = json.dumps(dataclasses.asdict(answer) if isinstance(answer, Verdict) else answer)
        return [json.loads(text) for text in self._meeting.gather(said, timeout, f"{self.name}, {what}")]

    def close(self) -> None:
        """Leave the system, if nothing has failed."""
        self._system.close()


class LaunchedNetwork:
    """Where the ranks are that a launcher started: stands in for a `Network`.

    Attributes:
        switches: addresses of those in use; "" before any.
    """

    def __init__(self, meeting: Meeting, options: Options) -> None:
        """Of this rank.

        Args:
            meeting: of all ranks.
            options: which switches; those of rank 0 count.
        """
        self._meeting = meeting
        self._options = options
        self.switches = ""

    @property
    def words(self) -> str:
        """Hosts and switches, for people."""
        started = self._meeting.started
        hosts = len(self._meeting.hosts.first_ranks())
        text = f"{started.size} ranks on {hosts} host{'s' if hosts > 1 else ''}, started by {started.launcher.name}"
        if not self.switches:
            return text
        if self._options.switch:
            return f"{text}; switch at {self.switches}"
        return f"{text}; {'a switch on each' if hosts > 1 else 'one switch'}, started for this run: {self.switches}"

    def start_jobs(self, entry: Entry, plan: Plan, stack: contextlib.ExitStack) -> list[LaunchedGroup]:
        """This rank of a system, joined. `stack` ends it, and the switches that are started for ours.

        Raises:
            BenchError: a rank did not join.
        """
        started = self._meeting.started
        options = dict(entry.options)
        if "transport" in entry.options:
            place = self._place(entry.name, plan.timeout)
            # After a failure it ends with this process, and does not wait for its job to end.
            stack.push(lambda kind, *_: OF_THIS_PROCESS.release(*place.switches) if kind is None else None)
            self.switches = place.addresses
            switches = [NamedSwitch(each.address, each.share, each.token) for each in place.switches]
            options = job_options(entry, plan, switches, "", place.job)
        store = PrefixStore(entry.name, self._meeting.store)
        rank = Place(started.rank, started.size, "", self._interface(), options, store)
        group = LaunchedGroup(entry, rank, self._meeting, plan.timeout)
        stack.push(lambda kind, *_: group.close() if kind is None else None)
        return [group]

    def _place(self, name: str, timeout: float) -> Placement:
        started = self._meeting.started
        return find_switches(
            PrefixStore(f"switches/{name}", self._meeting.store),
            started.rank,
            started.size,
            group=f"bench-{name}",
            options=self._options,
            hosts=lambda: self._meeting.hosts,
            timeout=timeout,
            embedded=OF_THIS_PROCESS,
        )

    def _interface(self) -> str:
        return os.environ.get("GLOO_SOCKET_IFNAME", "") or self._meeting.interface
