"""Every system that `switchml bench` knows, in one table."""

from __future__ import annotations

from typing import Any

from switchml.bench.patterns import ELEMENT_TYPES, OPERATIONS
from switchml.bench.systems.system import Entry
from switchml.errors import UsageError

_MPI_COMMON = ("--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "pml", "ob1")
_WITHOUT_AVG = frozenset(OPERATIONS) - {"avg"}
# One thread a rank, as torchrun sets it: ranks share the cores.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def _mpi(name: str, *options: str) -> Entry:
    return Entry(
        name=name,
        rank="switchml.bench.systems.mpi:OpenMPI",
        launcher="mpiexec",
        requires=("mpi4py",),
        extra="bench",
        in_namespaces=False,
        ring=False,
        dtypes=frozenset(ELEMENT_TYPES) - {"float16", "bfloat16"},
        operations=_WITHOUT_AVG,
        environment=_ONE_THREAD,
        mpi_options=(*_MPI_COMMON, *options),
    )


def _ours(name: str, transport: str, multicast: bool | None) -> Entry:
    return Entry(
        name=name,
        rank="switchml.bench.systems.ours:SwitchML",
        launcher="processes",
        requires=(),
        extra="",
        in_namespaces=transport != "shm",
        ring=False,
        dtypes=frozenset(ELEMENT_TYPES),
        operations=frozenset(OPERATIONS),
        environment=_ONE_THREAD,
        options={"transport": transport, "multicast": multicast},
    )


BASELINES = {
    entry.name: entry
    for entry in (
        Entry(
            name="gloo",
            rank="switchml.bench.systems.gloo:Gloo",
            launcher="processes",
            requires=("torch",),
            extra="bench",
            in_namespaces=True,
            ring=True,
            dtypes=frozenset(ELEMENT_TYPES) - {"int16"},
            operations=_WITHOUT_AVG,
            environment={**_ONE_THREAD, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        ),
        _mpi("mpi-shm", "--mca", "btl", "self,sm"),
        _mpi("mpi-tcp", "--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"),
    )
}

VARIANTS = {
    entry.name: entry
    for entry in (
        _ours("auto", "auto", None),
        _ours("shm", "shm", None),
        _ours("udp", "udp", None),
        _ours("udp-multicast", "udp", True),
        _ours("udp-unicast", "udp", False),
    )
}


def find(names: list[str], table: dict[str, Entry], what: str) -> list[Entry]:
    """Entries by name, in the order given. Raises `UsageError` for an unknown or repeated name."""
    unknown = [name for name in names if name not in table]
    if unknown:
        raise UsageError(f"{what} {', '.join(unknown)}: choose from {', '.join(table)}")
    if len(set(names)) != len(names):
        raise UsageError(f"{what}: {', '.join(names)} repeats a name")
    return [table[name] for name in names]


def variants_of(transport: str, multicast: bool | None) -> list[str]:
    """Variant names for --transport and --multicast. Raises `UsageError`."""
    if transport == "all":
        return ["shm", "udp-multicast", "udp-unicast"]
    if transport == "udp" and multicast is not None:
        return ["udp-multicast" if multicast else "udp-unicast"]
    if transport in ("auto", "shm", "udp"):
        if multicast is not None:
            raise UsageError("--multicast and --no-multicast belong to --transport udp")
        return [transport]
    raise UsageError(f"transport {transport!r}: choose auto, udp, shm or all")


def options_of(entry: Entry, **more: Any) -> dict[str, Any]:
    """The entry's options with more of them."""
    return {**entry.options, **more}
