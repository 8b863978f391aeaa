"""Every system under test: what one rank's end of it is to the benchmark, and the table of all that there are."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from switchml.bench.systems.mpi_installations import INTEL_MPI, MPICH, OPEN_MPI, Make, installation_of
from switchml.bench.timed_collectives import COLLECTIVES
from switchml.bench.verification import ELEMENT_TYPES, OPERATIONS, Array
from switchml.control.target import TRANSPORTS
from switchml.errors import UsageError
from switchml.launchers import Launcher


@dataclass(frozen=True)
class Place:
    """Where a rank runs and how it finds the others.

    Attributes:
        rank: its number.
        world_size: number of ranks.
        rendezvous: a folder that all ranks of the group share.
        interface: the network interface that leads to the other ranks.
        options: of the system.
        store: torch's, of ranks that a launcher started and that share no folder.
    """

    rank: int
    world_size: int
    rendezvous: str
    interface: str
    options: Mapping[str, Any] = field(default_factory=dict)
    store: Any = None


class System(Protocol):
    """One rank of a system. Created, opened, used and closed in a process of its own."""

    def open(self, place: Place) -> None:
        """Join the other ranks; returns when all are there."""

    def allreduce(self, buffer: Array, dtype: str, op: str) -> None:
        """Reduce the one-dimensional buffer in place over all ranks and return when it is done."""

    def collective(self, name: str, given: Array, taken: Array, dtype: str, op: str) -> None:
        """Another collective, between flat buffers; returns when it is done. Not called of trainings.

        Args:
            name: of `timed_collectives.COLLECTIVES`, all_gather for instance.
            given: by this rank, of as many pieces as that says.
            taken: by it, likewise; `given` itself where the collective is in place.
            dtype: name of the element type.
            op: name of the reduction.
        """

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

    Attributes:
        name: what it is called.
        rank: "module:Class" of its `System`, loaded in the rank's process only.
        launcher: how ranks are started: as plain processes, by an mpiexec, or by an MPI that starts the benchmark.
        requires: modules that must be installed.
        extra: where they come from.
        in_namespaces: whether its ranks can run in network namespaces of their own.
        ring: whether its traffic on a network is that of a ring over TCP.
        dtypes: names of the element types that it can reduce.
        operations: names of the reductions that it has.
        options: what its `System` is told.
        environment: variables of its ranks.
        mpi: whose mpiexec that is.
        mpi_options: arguments of it.
        backend: of torch's, that has to be built in.
        collectives: names of the collectives that it has.
    """

    name: str
    rank: str
    launcher: Literal["processes", "mpiexec", "started"]
    requires: tuple[str, ...]
    extra: str
    in_namespaces: bool
    ring: bool
    dtypes: frozenset[str]
    operations: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    mpi: Make | None = None
    mpi_options: tuple[str, ...] = ()
    backend: str = ""
    collectives: frozenset[str] = frozenset(COLLECTIVES)

    def check_usable(
        self,
        dtype: str,
        op: str,
        *,
        namespaces: bool,
        launcher: Launcher | None = None,
        collective: str = "allreduce",
    ) -> None:
        """Whether this system can take part.

        Args:
            dtype: that it has to reduce.
            op: how.
            namespaces: its ranks are in network namespaces of their own.
            launcher: what has started the ranks; None = they are still to be started.
            collective: that it has to carry out.

        Raises:
            UsageError: it cannot; says why.
        """
        missing = [module for module in self.requires if importlib.util.find_spec(module) is None]
        if missing:
            raise UsageError(f"{self.name} needs {', '.join(missing)}: pip install 'switchml[{self.extra}]'")
        if dtype not in self.dtypes:
            raise UsageError(f"{self.name} cannot reduce {dtype}; leave it out or choose another --dtype")
        if collective not in self.collectives:
            raise UsageError(f"{self.name} has no {collective}; leave it out (ours: --variants none)")
        if op not in self.operations:
            raise UsageError(f"{self.name} has no {op!r}; leave it out or choose another --op")
        if self.launcher == "started" and (launcher is None or not launcher.mpi):
            raise UsageError(
                f"{self.name} is the MPI that starts this benchmark: mpirun -n 4 switchml bench ..."
            )
        if self.launcher == "mpiexec" and launcher is not None:
            raise UsageError(
                f"{self.name} starts ranks of its own, and {launcher.name} has started these: leave it out; mpi is the MPI under "
                "whose mpirun all of this runs"
            )
        if namespaces and not self.in_namespaces:
            raise UsageError(
                f"{self.name} works on one host only; leave it out with --rate, --loss or --delay"
            )
        if self.mpi is not None:
            installation_of(self.mpi)
        if self.backend and not _has_backend(self.backend):
            raise UsageError(
                f"{self.name} needs a torch that is built with {self.backend.upper()} (USE_{self.backend.upper()}=1, or NVIDIA's "
                "container images); the wheels for CPUs have none"
            )


def _has_backend(name: str) -> bool:
    """Whether the torch here can make groups of that name."""
    import torch.distributed as dist

    return dist.is_backend_available(name)


def load(reference: str) -> System:
    """A new object of the class named "module:Class"."""
    module, _, name = reference.partition(":")
    return cast(System, getattr(importlib.import_module(module), name)())


_OPEN_MPI = ("--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "pml", "ob1")
_WITHOUT_AVG = frozenset(OPERATIONS) - {"avg"}
# One thread a rank, as torchrun sets it: ranks share the cores.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def _mpi(
    name: str, make: Make | None, options: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> Entry:
    return Entry(
        name=name,
        rank="switchml.bench.systems.mpi:MpiRank",
        launcher="mpiexec" if make is not None else "started",
        requires=("mpi4py",),
        extra="bench",
        in_namespaces=False,
        ring=False,
        dtypes=frozenset(ELEMENT_TYPES) - {"float16", "bfloat16"},
        operations=_WITHOUT_AVG,
        environment={**_ONE_THREAD, **(environment or {})},
        mpi=make,
        mpi_options=options,
    )


def _torch(backend: str) -> Entry:
    return Entry(
        name=backend,
        rank="switchml.bench.systems.gloo:TorchBackend",
        launcher="processes",
        requires=("torch",),
        extra="bench",
        in_namespaces=True,
        ring=True,
        dtypes=frozenset(ELEMENT_TYPES) - {"int16"},
        operations=_WITHOUT_AVG,
        options={"backend": backend},
        environment={**_ONE_THREAD, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        backend="" if backend == "gloo" else backend,
    )


def _ours(name: str, transport: str, multicast: bool | None) -> Entry:
    return Entry(
        name=name,
        rank="switchml.bench.systems.ours:SwitchML",
        launcher="processes",
        requires=(),
        extra="",
        in_namespaces=transport not in ("memory", "shm"),
        ring=False,
        dtypes=frozenset(ELEMENT_TYPES),
        operations=frozenset(OPERATIONS),
        collectives=frozenset(COLLECTIVES) - {"all_to_all"},
        environment=_ONE_THREAD,
        options={"transport": transport, "multicast": multicast},
    )


BASELINES = {
    entry.name: entry
    for entry in (
        _torch("gloo"),
        _torch("ucc"),
        _mpi("mpi-shm", OPEN_MPI, (*_OPEN_MPI, "--mca", "btl", "self,sm")),
        _mpi(
            "mpi-tcp", OPEN_MPI, (*_OPEN_MPI, "--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo")
        ),
        _mpi("mpich", MPICH),
        _mpi("impi", INTEL_MPI, environment={"I_MPI_FABRICS": "shm", "I_MPI_PIN": "off"}),
        _mpi("mpi", None),
    )
}

VARIANTS = {
    entry.name: entry
    for entry in (
        _ours("auto", "auto", None),
        _ours("memory", "memory", None),
        _ours("shm", "shm", None),
        _ours("udp", "udp", None),
        _ours("udp-multicast", "udp", True),
        _ours("udp-unicast", "udp", False),
    )
}


def find(names: list[str], table: dict[str, Entry], what: str) -> list[Entry]:
    """Entries by name, in the order given.

    Args:
        names: of the entries.
        table: where to look.
        what: what the table holds, for messages.

    Raises:
        UsageError: a name is unknown or comes twice.
    """
    unknown = [name for name in names if name not in table]
    if unknown:
        raise UsageError(f"{what} {', '.join(unknown)}: choose from {', '.join(table)}")
    if len(set(names)) != len(names):
        raise UsageError(f"{what}: {', '.join(names)} repeats a name")
    return [table[name] for name in names]


def variants_of(transport: str, multicast: bool | None) -> list[str]:
    """Variant names for --transport and --multicast.

    Raises:
        UsageError: there is no such transport, or it has no multicast.
    """
    if transport == "all":
        return ["memory", "shm", "udp-multicast", "udp-unicast"]
    if transport == "udp" and multicast is not None:
        return ["udp-multicast" if multicast else "udp-unicast"]
    if transport in TRANSPORTS:
        if multicast is not None:
            raise UsageError("--multicast and --no-multicast belong to --transport udp")
        return [transport]
    raise UsageError(f"transport {transport!r}: choose {', '.join(TRANSPORTS)} or all")


def options_of(entry: Entry, **more: Any) -> dict[str, Any]:
    """The entry's options with more of them."""
    return {**entry.options, **more}
