"""Which switch is below which, from a file, and what of a job is each one's: no I/O but reading that file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from switchml.control.control_messages import DEFAULT_CONTROL_PORT
from switchml.control.target import JobProgram, WorkerProgram
from switchml.errors import UsageError
from switchml.protocol.messages import UDP_PORT_FIRST

_KEYS = {"name", "data", "control", "below"}


@dataclass(frozen=True)
class PlacedSwitch:
    """One switch of a tree."""

    name: str
    data: tuple[str, int]  # IPv4 address and UDP port of its data port; port 0 = a free one
    control: tuple[str, int] | None = None  # where its own workers join; None = it has none
    below: str = ""  # name of the switch above; "" = it is the root


@dataclass(frozen=True)
class Topology:
    """A tree of switches.

    Raises:
        UsageError: it is none.
    """

    switches: tuple[PlacedSwitch, ...]

    def __post_init__(self) -> None:
        names = [switch.name for switch in self.switches]
        if not names or len(set(names)) < len(names):
            raise UsageError("a topology has switches, each with a name of its own")
        above = {switch.name: switch.below for switch in self.switches}
        for name, below in above.items():
            if below and below not in above:
                raise UsageError(f"switch {name!r} is below {below!r}, which is not in the topology")
        roots = [name for name, below in above.items() if not below]
        if len(roots) != 1:
            raise UsageError(
                f"a topology has one switch that is below none, and this one {len(roots) or 'none'}"
            )
        reached: set[str] = set()
        new = set(roots)
        while new:
            reached |= new
            new = {name for name, below in above.items() if below in new}
        if reached != set(names):
            raise UsageError(
                f"switches {', '.join(sorted(set(names) - reached))} are below each other in a circle"
            )
        if not any(switch.control for switch in self.switches):
            raise UsageError("no switch of the topology has a `control` address where workers join")

    def programs(self, job: JobProgram, data: Mapping[str, tuple[str, int]]) -> dict[str, JobProgram]:
        """What each switch has to do for a job, from the root down. Who has nothing to add up has none.

        Args:
            job: of all workers, each with the switch that it joined at.
            data: address and port of each switch.
        """
        below: dict[str, list[str]] = {switch.name: [] for switch in self.switches}
        for switch in self.switches:
            if switch.below:
                below[switch.below].append(switch.name)
        root = next(switch.name for switch in self.switches if not switch.below)
        return dict(self._of(root, job, below, data, None))

    def _of(
        self,
        name: str,
        job: JobProgram,
        below: Mapping[str, list[str]],
        data: Mapping[str, tuple[str, int]],
        above: tuple[str, int] | None,
    ) -> Iterator[tuple[str, JobProgram]]:
        own = [worker for worker in job.workers if worker.at == name]
        ranks = {child: _ranks(child, job, below) for child in below[name]}
        racks = {child: found for child, found in ranks.items() if found}
        if not own and len(racks) == 1:
            yield from self._of(next(iter(racks)), job, below, data, above)
            return
        if not own and not racks:
            return
        members = [replace(worker, rank=number, ranks=(worker.rank,)) for number, worker in enumerate(own)]
        for child, of_child in racks.items():
            address, port = data[_first_that_adds(child, job, below)]
            members.append(
                WorkerProgram(len(members), "udp", address, port, "", ranks=of_child, is_switch=True)
            )
        group = "" if racks else job.multicast_group
        yield name, replace(job, workers=tuple(members), multicast_group=group, above=above)
        for child in racks:
            yield from self._of(child, job, below, data, data[name])


def _ranks(name: str, job: JobProgram, below: Mapping[str, list[str]]) -> tuple[int, ...]:
    """The job's ranks at a switch and below."""
    own = [worker.rank for worker in job.workers if worker.at == name]
    return tuple(sorted([*own, *(rank for child in below[name] for rank in _ranks(child, job, below))]))


def _first_that_adds(name: str, job: JobProgram, below: Mapping[str, list[str]]) -> str:
    """The switch, or the one below it that all of the job's ranks there are at or below."""
    racks = [child for child in below[name] if _ranks(child, job, below)]
    own = any(worker.at == name for worker in job.workers)
    return name if own or len(racks) != 1 else _first_that_adds(racks[0], job, below)


def read_topology(file: Path) -> Topology:
    """Read a tree of switches.

    Raises:
        UsageError: the file cannot be read, or says something else.
    """
    try:
        told = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--topology {file}: {error}") from error
    switches = told.get("switch")
    if set(told) != {"switch"} or not isinstance(switches, list):
        raise UsageError(f"--topology {file}: it says [[switch]] for each switch, and nothing else")
    try:
        return Topology(tuple(_switch(each) for each in switches))
    except UsageError as error:
        raise UsageError(f"--topology {file}: {error}") from None


def _switch(told: Any) -> PlacedSwitch:
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise UsageError("a switch has texts: name, data, control and below")
    if not {"name", "data"} <= set(told) <= _KEYS:
        raise UsageError(
            f"a switch has name and data, and may have control and below; this one has {', '.join(told) or 'nothing'}"
        )
    control = _address(told["control"], DEFAULT_CONTROL_PORT) if "control" in told else None
    return PlacedSwitch(told["name"], _address(told["data"], UDP_PORT_FIRST), control, told.get("below", ""))


def _address(text: str, default: int) -> tuple[str, int]:
    host, _, port = text.partition(":")
    if not host or not (port or "0").isdecimal() or int(port or "0") > 0xFFFF:
        raise UsageError(f"{text!r} is no address of a switch; write IP or IP:PORT, as in 127.0.0.2:50551")
    return host, int(port) if port else default
