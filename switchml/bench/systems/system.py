"""What every system under test is to the benchmark: one rank's end, and a catalogue entry."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from switchml.bench.patterns import Array
from switchml.errors import UsageError


@dataclass(frozen=True)
class Place:
    """Where a rank runs and how it finds the others.

    rendezvous: a folder that all ranks of the team share.
    interface: the network interface that leads to the other ranks.
    """

    rank: int
    world_size: int
    rendezvous: str
    interface: str
    options: Mapping[str, Any] = field(default_factory=dict)


class System(Protocol):
    """One rank of a system. Created, opened, used and closed in a process of its own."""

    def open(self, place: Place) -> None:
        """Join the other ranks; returns when all are there."""

    def allreduce(self, buffer: Array, dtype: str, op: str) -> None:
        """Reduce the one-dimensional buffer in place over all ranks and return when it is done."""

    def barrier(self) -> None:
        """Return when all ranks have called it."""

    def error_bound(self) -> float:
        """What block floating point may have added to an element of the last reduction; 0 without it."""

    def counters(self) -> dict[str, int]:
        """Packets and the like since `open`; {} when the system counts nothing."""

    def describe(self) -> dict[str, Any]:
        """Facts for the header of the report: versions, payload, transport in use."""

    def close(self) -> None:
        """Leave. Not called when another rank has failed."""


@dataclass(frozen=True)
class Entry:
    """A system in the catalogue.

    rank: "module:Class" of its `System`, loaded in the rank's process only.
    launcher: how ranks are started: as plain processes or by Open MPI's mpiexec.
    requires: modules that must be installed; extra: where they come from.
    in_namespaces: whether its ranks can run in network namespaces of their own.
    ring: whether its traffic on a network is that of a ring over TCP.
    dtypes, operations: what it can reduce.
    """

    name: str
    rank: str
    launcher: Literal["processes", "mpiexec"]
    requires: tuple[str, ...]
    extra: str
    in_namespaces: bool
    ring: bool
    dtypes: frozenset[str]
    operations: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    mpi_options: tuple[str, ...] = ()

    def check_usable(self, dtype: str, op: str, *, namespaces: bool) -> None:
        """Raises `UsageError` with the reason why this system cannot take part."""
        missing = [module for module in self.requires if importlib.util.find_spec(module) is None]
        if missing:
            raise UsageError(f"{self.name} needs {', '.join(missing)}: pip install 'switchml[{self.extra}]'")
        if dtype not in self.dtypes:
            raise UsageError(f"{self.name} cannot reduce {dtype}; leave it out or choose another --dtype")
        if op not in self.operations:
            raise UsageError(f"{self.name} has no {op!r}; leave it out or choose another --op")
        if namespaces and not self.in_namespaces:
            raise UsageError(f"{self.name} works on one host only; leave it out with --rate or --loss")


def load(reference: str) -> System:
    """A new object of the class named "module:Class"."""
    module, _, name = reference.partition(":")
    return cast(System, getattr(importlib.import_module(module), name)())
