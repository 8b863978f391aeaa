"""Times of all-reduce, all systems interleaved in one run.

For every size there are rounds; in a round every system runs one batch of iterations, and the order rotates from
round to round, so that what the machine does meanwhile falls on all alike. While one system runs, the ranks of
the others sleep on a pipe. A batch: every rank fills its tensor, passes the system's barrier, then reduces in
place many times in a row; the time of an iteration is the slowest rank's loop divided by their number. (A sum in
place grows; before it could overflow the tensor is filled anew and the barrier passed again, untimed.)

Several jobs of a system (`Plan.jobs`) run their batches at the same time; what counts is the time in which all of them run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from switchml.bench import rank_protocol
from switchml.bench.limits import (
    SHAPED,
    SWITCHES,
    WIRE,
    goodput_limit,
    ring_limit,
    spread_limit,
    tcp_goodput_limit,
    uplink_passes,
)
from switchml.bench.rank_group import RankGroup
from switchml.bench.results import Measurement, Spread, interleaved, overlap, with_ratios
from switchml.bench.systems.catalogue import Entry, options_of
from switchml.bench.timed_collectives import COLLECTIVES
from switchml.bench.verification import ElementType, Verdict, batch_limit, check_operation, element_type
from switchml.errors import BenchError, UsageError
from switchml.launchers import Launcher
from switchml.protocol.messages import FLOAT32, WIRES, wire_lanes
from switchml.testbed.bulk_flow import BulkFlow
from switchml.testbed.namespace import Namespace
from switchml.testbed.shape import LinkShape

_LOOPBACK = "127.0.0.1"
_NEVER = 1_000_000
_LEAST_TOGETHER = 3  # all-reduces in a batch of several jobs: what one does alone in the end does not count


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        workers: numbers of workers; every combination with `sizes` is measured.
        sizes: bytes of the tensor, rounded down to whole elements.
        dtype: name of the element type.
        op: name of the reduction.
        collective: of `COLLECTIVES`; not only the all-reduce has this module for its measurement.
        variants: systems of ours.
        baselines: those that ours are compared with.
        check: whether sums are verified.
        rounds: in each, every system runs one batch.
        iterations: all-reduces in a batch; 0 = as many as last `min_time`.
        warm_up: all-reduces before the rounds.
        min_time: seconds that a batch lasts at least, about.
        payload: bytes of elements in a packet, of our systems; 0 = the switch's default.
        window: slots, of our systems; 0 = the switch's default.
        wire: what sums of float32 travel as in our systems.
        shape: links of a star that is built for the run; None = this machine's own interfaces.
        mtu: bytes, of the network in use.
        line_rate: bits a second of the network in use when it is not `shape`'s, for the limit only; 0 = unknown.
        switch: control address of a running switch; "" = emulators are started for each of our systems.
        switches: where these are, of `SWITCHES`.
        racks: of the star, each with as many workers; 1 = none.
        uplink: bits a second between a rack and the middle; 0 = as the links of `shape`.
        token: that switch's join token.
        jobs: of each system, at the same time, by the same workers.
        beside: a bulk flow of TCP each way on the first worker's link: "tcp", or "tcp-" and a congestion control; "" = none.
        timeout: seconds that a batch may take.
        launcher: what started the ranks; None = this process does.
        a_host: ranks on a host, for the limit only.
    """

    workers: list[int]
    sizes: list[int]
    dtype: str
    op: str
    variants: list[Entry]
    baselines: list[Entry]
    check: bool = True
    rounds: int = 7
    iterations: int = 0
    warm_up: int = 3
    min_time: float = 0.1
    payload: int = 0
    window: int = 0
    wire: str = FLOAT32
    shape: LinkShape | None = None
    mtu: int = 1500
    line_rate: int = 0
    switch: str = ""
    switches: str = "hub"
    racks: int = 1
    uplink: int = 0
    token: str = ""
    jobs: int = 1
    beside: str = ""
    timeout: float = 300.0
    launcher: Launcher | None = None
    a_host: int = 1
    collective: str = "allreduce"

    @property
    def entries(self) -> list[Entry]:
        """All systems, ours first."""
        return [*self.variants, *self.baselines]

    def validate(self) -> ElementType:
        """Check the plan before anything is started.

        Returns:
            The element type that `dtype` names.

        Raises:
            UsageError: it cannot be carried out.
        """
        kind = element_type(self.dtype)
        check_operation(kind, self.op)
        if not self.entries:
            raise UsageError("nothing to measure: name a variant or a baseline")
        if self.collective not in COLLECTIVES:
            raise UsageError(f"collective {self.collective!r}: choose one of {', '.join(COLLECTIVES)}")
        if self.rounds < 1 or self.iterations < 0 or self.warm_up < 0 or self.min_time <= 0:
            raise UsageError("at least one round, no negative numbers, and a positive --min-time")
        for workers in self.workers:
            COLLECTIVES[self.collective].check_count(min(self.sizes) // kind.itemsize, workers)
        if min(self.sizes) < kind.itemsize:
            raise UsageError(f"sizes start at one element: {kind.itemsize} bytes of {kind.name}")
        if self.switches not in SWITCHES:
            raise UsageError(f"--switches {self.switches!r}: choose one of {', '.join(SWITCHES)}")
        if self.switch and self.switches != "hub":
            raise UsageError(
                "--switch names switches that run; --switches places those that are started here"
            )
        self._check_racks()
        if self.wire not in WIRES:
            raise UsageError(f"wire {self.wire!r}: choose one of {', '.join(WIRES)}")
        if self.shape is not None and self.switch:
            raise UsageError(
                "--switch names a switch outside; with --rate, --loss or --delay the network is built here"
            )
        if self.jobs < 1:
            raise UsageError(f"--jobs {self.jobs}: at least one")
        if self.beside and self.beside.partition("-")[0] != "tcp":
            raise UsageError(f"--beside {self.beside!r}: write tcp, or a congestion control as in tcp-cubic")
        if self.beside and (self.shape is None or not self.shape.rate):
            raise UsageError("--beside needs links to share: give a --rate")
        for entry in self.entries:
            entry.check_usable(
                self.dtype,
                self.op,
                namespaces=self.shape is not None,
                launcher=self.launcher,
                collective=self.collective,
            )
        return kind

    def _check_racks(self) -> None:
        if self.racks == 1:
            if self.uplink or self.switches == "racks":
                raise UsageError("--uplink and --switches racks are for several --racks")
            return
        if self.shape is None or self.switches not in ("hub", "racks"):
            raise UsageError(
                "--racks are of links that are built here (--rate), with --switches hub or racks"
            )
        if self.uplink and not self.shape.rate:
            raise UsageError("--uplink needs a --rate of the workers' links, too")
        if any(workers % self.racks for workers in self.workers):
            raise UsageError(f"--racks {self.racks}: each has as many workers")
        if self.switches == "racks" and any("backend" in entry.options for entry in self.variants):
            raise UsageError("--switches racks: torch's ranks all join at one switch; leave that variant out")


class Group(Protocol):
    """The ranks of a system, joined; see `RankGroup`."""

    facts: dict[str, Any]

    def ask(self, command: Any, timeout: float) -> list[Any]:
        """The answers to a command, by rank."""

    def counters(self, timeout: float) -> dict[str, int]:
        """Summed over ranks."""


class Starter(Protocol):
    """What starts the ranks of a system."""

    def start_jobs(self, entry: Entry, plan: Plan, stack: contextlib.ExitStack) -> Sequence[Group]:
        """The ranks of as many jobs as the plan says, joined; `stack` ends them."""


class Observer(Protocol):
    """Told how the run goes on."""

    def phase(self, text: str) -> None:
        """Something that takes time begins."""

    def step(self) -> None:
        """One of `steps` is done."""


def steps(plan: Plan) -> int:
    """How many times an observer's `step` is called."""
    return len(plan.workers) * len(plan.entries) * (1 + len(plan.sizes) * (plan.jobs + plan.rounds))


@dataclass
class _Lane:
    """A job of a system with its group and what was found so far at the size at hand."""

    name: str
    entry: Entry
    group: Group
    iterations: int = 1
    refill: int = 1
    verdict: Verdict | None = None
    before: dict[str, int] = dataclasses.field(default_factory=dict)
    rounds: list[float] = dataclasses.field(default_factory=list)
    shares: dict[str, list[float]] = dataclasses.field(default_factory=dict)


Team = list[_Lane]
"""Jobs that run at the same time: all of one system."""


def measure(plan: Plan, observer: Observer, starter: Starter | None = None) -> Iterator[Measurement]:
    """Measurements in the order of workers, sizes and systems, each yielded once its size is done.

    Whatever was started is ended in every case.

    Args:
        plan: what to measure.
        observer: told how the run goes on.
        starter: of the ranks; None = they are started here, on the plan's network.

    Raises:
        UsageError: the plan cannot be carried out.
        TestbedError: nor can its network be built.
        BenchError: a system failed.
    """
    kind = plan.validate()
    for workers in plan.workers:
        with contextlib.ExitStack() as stack:
            network = starter or Network.build(plan, workers, stack)
            teams: list[Team] = []
            for entry in plan.entries:
                observer.phase(f"{workers} workers: starting {entry.name}")
                groups = network.start_jobs(entry, plan, stack)
                names = [
                    f"{entry.name} job {number + 1}" if plan.jobs > 1 else entry.name
                    for number in range(plan.jobs)
                ]
                teams.append([_Lane(name, entry, group) for name, group in zip(names, groups, strict=True)])
                observer.step()
            flow = network.start_flow(plan, stack) if plan.beside and isinstance(network, Network) else None
            for size in plan.sizes:
                count = COLLECTIVES[plan.collective].check_count(size // kind.itemsize, workers)
                _measure_size(plan, kind, workers, count, teams, flow, observer)
                yield from _report(plan, kind, workers, count, [lane for team in teams for lane in team])


@dataclass(frozen=True)
class Network:
    """Where the ranks of one number of workers run.

    Attributes:
        workers: their number.
        namespaces: theirs; none where they run in this process's own.
        addresses: theirs.
        hub: the namespace of a switch in the middle.
        host: the address of such a switch.
        interface: of a worker, towards the others.
        racks: the namespaces of hubs between the workers and the middle, where there are any.
    """

    workers: int
    namespaces: tuple[Namespace, ...]
    addresses: tuple[str, ...]
    hub: Namespace | None
    host: str
    interface: str
    racks: tuple[Namespace, ...] = ()

    @classmethod
    def build(cls, plan: Plan, workers: int, stack: contextlib.ExitStack) -> Network:
        """This machine's own interfaces or, for a plan with a shape, a star that `stack` takes down.

        Raises:
            UsageError: this machine cannot build the star.
        """
        if plan.shape is None:
            return cls(workers, (), (_LOOPBACK,) * workers, None, _LOOPBACK, "lo")
        from switchml.testbed.probe import why_unavailable

        reason = why_unavailable(
            rate=bool(plan.shape.rate), loss=bool(plan.shape.loss), delay=bool(plan.shape.delay)
        )
        if reason is not None:
            raise UsageError(f"--rate, --loss and --delay need network namespaces: {reason}")
        from switchml.testbed.star import Star, worker_address

        uplink = dataclasses.replace(plan.shape, rate=plan.uplink or plan.shape.rate, delay=0.0)
        star = stack.enter_context(Star(workers, plan.shape, mtu=plan.mtu, racks=plan.racks, uplink=uplink))
        addresses = tuple(map(worker_address, range(workers)))
        racks = star.racks if plan.racks > 1 else ()
        return cls(workers, star.workers, addresses, star.hub, star.hub_address, star.interface, racks)

    def start(self, entry: Entry, plan: Plan, stack: contextlib.ExitStack) -> RankGroup:
        """The ranks of a system, joined. `stack` ends them, and the switches that are started for ours.

        Raises:
            BenchError: they did not start.
        """
        return self.start_jobs(entry, dataclasses.replace(plan, jobs=1), stack)[0]

    def start_jobs(self, entry: Entry, plan: Plan, stack: contextlib.ExitStack) -> list[RankGroup]:
        """As `start`, as many jobs as the plan says, at the same switches."""
        options = dict(entry.options)
        each: list[dict[str, Any]] = []
        if "transport" in entry.options and plan.switches == "racks":
            joined_at, token = self._start_tree(stack)
            address = joined_at[0]
            each = [{"switch": at} for at in joined_at]
        elif "transport" in entry.options:
            address, token = self.start_switches(plan, stack)
        groups = []
        for _ in range(plan.jobs):
            if "transport" in entry.options:
                job = f"bench-{entry.name}-{os.getpid()}-{secrets.token_hex(4)}"
                options = job_options(entry, plan, address, token, job)
            group = RankGroup(
                entry,
                self.workers,
                options,
                namespaces=self.namespaces,
                interface=self.interface,
                each=each,
            )
            groups.append(stack.enter_context(group))
        return groups

    def _start_tree(self, stack: contextlib.ExitStack) -> tuple[list[str], str]:
        """A switch in each rack below one in the middle, all in this process; `stack` ends them.

        Returns:
            Where each worker joins, by rank, and the token.
        """
        from switchml.control.topology import PlacedSwitch, Topology
        from switchml.switch_emulator.switch_tree import EmulatedTree
        from switchml.testbed.star import rack_address

        assert self.hub is not None
        homes = {"middle": self.hub}
        placed = [PlacedSwitch("middle", (self.host, 0))]
        for number, namespace in enumerate(self.racks):
            name, address = f"rack {number}", (rack_address(number), 0)
            homes[name] = namespace
            placed.append(PlacedSwitch(name, address, address, below="middle"))
        token = secrets.token_hex(16)
        tree = EmulatedTree(
            Topology(tuple(placed)), token=token, within=lambda name, opened: homes[name].call(opened)
        )
        stack.enter_context(tree)
        a_rack = self.workers // len(self.racks)
        return [tree.control_addresses[f"rack {rank // a_rack}"] for rank in range(self.workers)], token

    def start_flow(self, plan: Plan, stack: contextlib.ExitStack) -> BulkFlow:
        """Bulk traffic of TCP between the first worker and the middle, both ways. `stack` ends it.

        Raises:
            TestbedError: the kernel has no such congestion control.
        """
        assert self.hub is not None
        control = plan.beside.partition("-")[2]
        return stack.enter_context(BulkFlow(self.namespaces[0], self.hub, self.host, control))

    def start_switches(self, plan: Plan, stack: contextlib.ExitStack) -> tuple[str, str]:
        """Addresses and token of the plan's switches; `stack` ends those that are started.

        Raises:
            SwitchUnreachableError: one does not start.
            UsageError: they are below each other, and so workers join at different ones.
        """
        if plan.switches == "racks":
            raise UsageError(
                "scripts join at one switch, or at each of several: choose switches hub, one or each"
            )
        if plan.switch:
            return plan.switch, plan.token
        from switchml.control import embedded

        hosts = list(zip(self.namespaces or [None] * self.workers, self.addresses, strict=True))
        homes = {"hub": [(self.hub, self.host)], "one": hosts[:1], "each": hosts}[plan.switches]
        token = secrets.token_hex(16)
        addresses = []
        for namespace, host in homes:
            start = partial(embedded.start, host, token=token)
            emulator = start() if namespace is None else namespace.call(start)
            # Its jobs have ended by then, or their workers have been killed: no use in waiting for them.
            stack.callback(emulator.close, 1.0)
            addresses.append(f"{emulator.address}*1")  # alike, as all hosts are: nothing to measure
        return ",".join(addresses), token


def job_options(entry: Entry, plan: Plan, switch: Any, token: str, job: str) -> dict[str, Any]:
    """Options of one of our systems.

    Args:
        entry: the system.
        plan: what is measured.
        switch: as for `Worker.join`.
        token: of the switches that have none of their own.
        job: the job's name.
    """
    return options_of(
        entry,
        switch=switch,
        token=token,
        job=job,
        payload=plan.payload,
        window=plan.window,
        wire=plan.wire,
        timeout=plan.timeout,
    )


def _measure_size(
    plan: Plan,
    kind: ElementType,
    workers: int,
    count: int,
    teams: list[Team],
    flow: BulkFlow | None,
    observer: Observer,
) -> None:
    for team in teams:
        for lane in team:
            observer.phase(f"{workers} workers, {count} x {kind.name}: warming up {lane.name}")
            _warm_up(plan, kind, workers, count, lane)
            observer.step()
    for number, team in interleaved(teams, plan.rounds):
        observer.phase(f"{workers} workers, {count} x {kind.name}: round {number}, {team[0].entry.name}")
        began, before = time.monotonic(), flow.received if flow is not None else ()
        if len(team) == 1:
            team[0].rounds.append(_batch(team[0], plan.timeout))
        else:
            _run_together(team, plan.timeout)
        if flow is not None:
            _note_flow(plan, team, before, flow.received, time.monotonic() - began)
        observer.step()


def _run_together(team: Team, timeout: float) -> None:
    """A round of several jobs: what counts is the time in which all of them run."""
    commands = [rank_protocol.Timeline(max(_LEAST_TOGETHER, lane.iterations), lane.refill) for lane in team]
    groups = [lane.group for lane in team if isinstance(lane.group, RankGroup)]  # started here, all of them
    for group, command in zip(groups, commands, strict=True):
        group.begin(command)
    answers = [group.end(command, timeout) for group, command in zip(groups, commands, strict=True)]
    # A reduction is done when the slowest rank has it.
    try:
        seconds, done = overlap([[max(moments) for moments in zip(*ranks, strict=True)] for ranks in answers])
    except ValueError as error:
        raise BenchError(
            f"{team[0].entry.name}: {error}; give more --iterations or larger --sizes"
        ) from error
    for lane, reductions in zip(team, done, strict=True):
        lane.rounds.append(seconds / reductions)
        lane.shares.setdefault("all jobs", []).append(reductions / sum(done))


def _note_flow(
    plan: Plan, team: Team, before: tuple[int, ...], after: tuple[int, ...], seconds: float
) -> None:
    """TCP's part of what it could have of the link."""
    assert plan.shape is not None
    limit = tcp_goodput_limit(plan.shape.rate, plan.mtu, SHAPED)
    for lane in team:
        for name, old, new in zip((f"{plan.beside} up", f"{plan.beside} down"), before, after, strict=True):
            lane.shares.setdefault(name, []).append((new - old) / seconds / limit)


def _warm_up(plan: Plan, kind: ElementType, workers: int, count: int, lane: _Lane) -> None:
    group = lane.group
    group.ask(rank_protocol.Prepare(count, kind.name, plan.op, plan.collective), plan.timeout)
    lane.verdict = None
    if plan.check:
        verdicts = group.ask(rank_protocol.Check(), plan.timeout)
        lane.verdict = sum(verdicts, Verdict(0, 0, 0.0))
    collective = COLLECTIVES[plan.collective]
    grows = collective.reduces and collective.in_place
    lane.refill = batch_limit(kind, plan.op, workers) if grows else _NEVER
    lane.iterations = max(1, plan.warm_up)
    seconds = _batch(lane, plan.timeout)
    if not plan.iterations and lane.iterations * seconds < plan.min_time / 10:
        # Too short to judge by: the first calls are slower than the rest.
        lane.iterations = max(1, round(plan.min_time / 4 / max(seconds, 1e-6)))
        seconds = _batch(lane, plan.timeout)
    lane.iterations = plan.iterations or max(1, round(plan.min_time / max(seconds, 1e-6)))
    lane.before = group.counters(plan.timeout)
    lane.rounds, lane.shares = [], {}


def _batch(lane: _Lane, timeout: float) -> float:
    """Seconds of one all-reduce."""
    seconds = lane.group.ask(rank_protocol.Batch(lane.iterations, lane.refill), timeout)
    return float(max(seconds)) / lane.iterations


def _report(plan: Plan, kind: ElementType, workers: int, count: int, lanes: list[_Lane]) -> list[Measurement]:
    measured = []
    moved = count if COLLECTIVES[plan.collective].taken != "none" else 0
    for lane in lanes:
        after = lane.group.counters(plan.timeout)
        measured.append(
            Measurement(
                system=lane.name,
                workers=workers,
                size=moved * kind.itemsize,
                count=moved,
                dtype=kind.name,
                op=plan.op if COLLECTIVES[plan.collective].reduces else "none",
                collective=plan.collective,
                iterations=lane.iterations,
                rounds=tuple(lane.rounds),
                verdict=lane.verdict,
                counters={name: value - lane.before.get(name, 0) for name, value in after.items()},
                facts=lane.group.facts,
                limit=_limit(plan, lane.entry, workers, lane.group.facts),
                shares={name: Spread.of(values) for name, values in lane.shares.items()},
            )
        )
    return with_ratios(measured, [entry.name for entry in plan.baselines])


def _limit(plan: Plan, entry: Entry, workers: int, facts: dict[str, Any]) -> float | None:
    shaped = plan.shape is not None and plan.shape.rate > 0
    rate = plan.shape.rate if plan.shape is not None and shaped else plan.line_rate
    framing = SHAPED if shaped else WIRE
    if not rate or plan.collective != "allreduce":
        return None
    uplink = plan.uplink or rate
    limit = ring_limit(min(rate, uplink), workers, plan.mtu, framing) if entry.ring else math.inf
    if "payload" in facts:
        lanes = wire_lanes(plan.wire) if plan.dtype == FLOAT32 and plan.op in ("sum", "avg") else 1
        limit = spread_limit(rate, facts["payload"], plan.switches, workers, framing, plan.a_host)
        if plan.racks > 1:
            often = uplink_passes(plan.switches, workers, plan.racks)
            limit = min(limit, goodput_limit(uplink, facts["payload"], framing) / often)
        limit *= lanes
    return limit if math.isfinite(limit) else None
