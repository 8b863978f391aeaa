"""Which collective travels how: the one table that the process group is driven by.

`switchml doctor` prints it, and docs/torch.md shows it (`python -m switchml.torch_backend.routing docs/torch.md`).

The path of a call must come out the same on every rank, so it depends only on what ranks must agree on: the
collective, dtype, operation and layout, and the size where the collective demands equal sizes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path as FilePath

import torch

from switchml.protocol.format_table import markdown, render
from switchml.torch_backend.tensors import is_lazy

KIB = 1024

GATHERED_LIMIT = 256 * KIB
"""Bytes (of one rank, times the world size) up to which the switch is taken where it has to gather.

Measured with `switchml bench allreduce --dtype float64 --workers 2,4 --baseline gloo` on loopback: 1.9 to 2.9 times as
fast as gloo up to this, even at four times as much, half as fast at sixteen times. A link of 1 Gbit/s has its break-even
here, computed from the latencies and the bytes that each side moves.

All-gathers do not gather more than a ring does: up to here they share a job with all else, which costs nothing to begin with.
"""


class Path(Enum):
    """How a call travels."""

    SWITCH = "switch"
    BESIDE = "switch, in a job of its own"
    ROWS = "switch, row by row"
    GLOO = "gloo"


class Tensors(Enum):
    """A class of calls, by dtype and operation."""

    ANY = "any"
    SPARSE = "sparse (COO), SUM"
    SUMMED = "SUM, AVG of float32, float16, bfloat16, complex64, complex32; SUM of int32, int16, int8, uint8"
    UNKNOWN_TO_GLOO = "other operations on int16"
    OTHER = "other dtypes and operations"

    def has(self, tensors: Sequence[torch.Tensor], operation: str | None) -> bool:
        """Whether a call is of this class.

        Args:
            tensors: the inputs on this rank.
            operation: the worker's name of it; None where nothing is reduced.
        """
        match self:
            case Tensors.SPARSE:
                return operation == "sum" and all(tensor.layout is torch.sparse_coo for tensor in tensors)
            case Tensors.SUMMED:
                summed = _SUMMED.get(operation or "", frozenset())
                return all(tensor.dtype in summed for tensor in tensors)
            case Tensors.UNKNOWN_TO_GLOO:
                return any(tensor.dtype is torch.int16 for tensor in tensors)
            case _:
                return True


_FLOATS = {torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex32}
_SUMMED = {
    "sum": frozenset(_FLOATS | {torch.int32, torch.int16, torch.int8, torch.uint8}),
    "avg": frozenset(_FLOATS),
}


@dataclass(frozen=True)
class Route:
    """One row of the table. The first row that fits a call counts.

    Attributes:
        methods: the names under which torch calls the collective, over torch's versions.
        path: the way it travels.
        why: the reason.
        tensors: the calls that the row is about.
        gathered: bytes of one rank's input times the world size up to which that is so; None = any size.
        beyond: the way above.

    Tensors that are not dense (sparse layouts) take gloo where no row is about them.
    """

    methods: tuple[str, ...]
    path: Path
    why: str
    tensors: Tensors = Tensors.ANY
    gathered: int | None = None
    beyond: Path = Path.GLOO


_SCATTERS = (
    "reduce_scatter",
    "reduce_scatter_single",
    "_reduce_scatter_base",
    "reduce_scatter_single_coalesced",
    "reduce_scatter_tensor_coalesced",
)
_REDUCTIONS = ("allreduce", "allreduce_coalesced", "reduce", *_SCATTERS)
_GATHERS = (
    "allgather",
    "all_gather_single",
    "_allgather_base",
    "allgather_coalesced",
    "all_gather_single_coalesced",
    "allgather_into_tensor_coalesced",
)
_VOLUME = "every rank sends its own bytes and gets those of all: worth it where latency rules"

ROUTES = (
    Route(
        ("allreduce",),
        Path.ROWS,
        "in proportion to the rows; coalesced, and bitwise equal on every rank",
        Tensors.SPARSE,
    ),
    Route(
        ("allreduce", "allreduce_coalesced"),
        Path.SWITCH,
        "one round trip instead of a ring; bitwise equal on every rank; coalesced calls share their round trips",
        Tensors.SUMMED,
    ),
    Route(("reduce",), Path.SWITCH, "one round trip; the root alone gets the sums", Tensors.SUMMED),
    Route(
        _SCATTERS,
        Path.SWITCH,
        "one round trip; each rank sends what the others want, and gets the sums of its part alone",
        Tensors.SUMMED,
    ),
    Route(_REDUCTIONS, Path.SWITCH, "gathered, as below; gloo has no int16", Tensors.UNKNOWN_TO_GLOO),
    Route(
        _REDUCTIONS,
        Path.SWITCH,
        f"gathered and reduced by each rank; {_VOLUME}",
        Tensors.OTHER,
        GATHERED_LIMIT,
    ),
    Route(("broadcast",), Path.SWITCH, "one round trip"),
    Route(("barrier",), Path.SWITCH, "one packet a rank"),
    Route(
        _GATHERS,
        Path.SWITCH,
        "each rank sends its own bytes and gets those of the others; large ones do not hold up sums, which go the other way",
        gathered=GATHERED_LIMIT,
        beyond=Path.BESIDE,
    ),
    Route(("gather", "scatter"), Path.GLOO, "one rank's link is the limit either way"),
    Route(("alltoall", "all_to_all_single", "alltoall_base"), Path.GLOO, "nothing to sum on the way"),
    Route(("send", "recv", "recv_anysource", "recvAnysource"), Path.GLOO, "between two ranks"),
    Route(("monitored_barrier",), Path.GLOO, "names the ranks that are missing, over send and recv"),
    Route(
        ("_start_coalescing", "_end_coalescing", "start_coalescing", "end_coalescing"),
        Path.GLOO,
        "torch's own refusal",
    ),
)

ROUTES_OF = {
    method: tuple(route for route in ROUTES if method in route.methods)
    for method in dict.fromkeys(method for route in ROUTES for method in route.methods)
}


def choose(method: str, tensors: Sequence[torch.Tensor], operation: str | None, world_size: int) -> Path:
    """The path of a call.

    Args:
        method: a name in `ROUTES_OF`.
        tensors: the inputs on this rank.
        operation: the worker's name of it; None where nothing is reduced.
        world_size: ranks of the group.
    """
    if any(tensor.layout is not torch.strided for tensor in tensors):
        sparse = (route.path for route in ROUTES_OF[method] if route.tensors is Tensors.SPARSE)
        return next(sparse, Path.GLOO) if Tensors.SPARSE.has(tensors, operation) else Path.GLOO
    route = next(route for route in ROUTES_OF[method] if route.tensors.has(tensors, operation))
    if route.gathered is None:
        return route.path
    size = world_size * sum(tensor.nbytes for tensor in tensors)
    return route.path if size <= route.gathered else route.beyond


KNOWN_TO_GLOO = frozenset(
    {
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.uint8,
        torch.bool,
    }
)
# Done here by the two collectives that GlooWorker has; any other is torch's own, over gloo.
_AS_FLAT_ARRAYS = frozenset({*_REDUCTIONS, *_GATHERS})
# Of those, gloo's reduce spoils the tensors of ranks that are not the root, and its reduce_scatter has no future.
_AS_CALLED = ("allreduce", "allgather", "all_gather_single", "_allgather_base")


def taken_by_gloo(
    method: str, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], world_size: int
) -> bool:
    """Whether gloo does a call that it was chosen for just as it is; else it gets the elements as flat arrays.

    Calls with sparse tensors are left to it, with its errors.
    """
    tensors = (*inputs, *outputs)
    if method not in _AS_FLAT_ARRAYS or any(tensor.layout is not torch.strided for tensor in tensors):
        return True
    if method not in _AS_CALLED or len(inputs) > 1:
        return False
    if any(is_lazy(tensor) or not tensor.is_contiguous() for tensor in tensors):
        return False
    if any(tensor.dtype not in KNOWN_TO_GLOO for tensor in tensors):
        return False
    shape = inputs[0].shape
    if method in ("all_gather_single", "_allgather_base"):
        return len(shape) > 0 and outputs[0].shape == (world_size * shape[0], *shape[1:])
    return all(tensor.shape == shape for tensor in tensors)


def gloo_methods() -> tuple[str, ...]:
    """The methods of a process group that are handed to gloo unseen."""
    return tuple(method for method, routes in ROUTES_OF.items() if routes[0].path is Path.GLOO)


def routing_rows() -> list[dict[str, object]]:
    """The table as data: a dict a row."""
    return [
        {
            "collectives": list(route.methods),
            "tensors": route.tensors.value,
            "path": route.path.value,
            "gathered_limit": route.gathered,
            "beyond": route.beyond.value,
            "why": route.why,
        }
        for route in ROUTES
    ]


def limit_told(gathered: int | None, beyond: str) -> str:
    """Up to how many bytes of one rank a path is taken, and which then; "" for any."""
    return "" if gathered is None else f" up to {gathered // KIB} KiB / world size, then {beyond}"


def routing_table() -> str:
    """The table as text: a line a row."""
    rows = [("collective", "tensors", "path", "why")]
    for route in ROUTES:
        path = route.path.value + limit_told(route.gathered, route.beyond.value)
        rows.append((", ".join(route.methods), route.tensors.value, path, route.why))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )


def routing_markdown() -> str:
    """The table as Markdown."""
    rows = [
        (
            ", ".join(f"`{method}`" for method in route.methods),
            route.tensors.value,
            route.path.value + limit_told(route.gathered, route.beyond.value),
            route.why,
        )
        for route in ROUTES
    ]
    return markdown(("collectives", "tensors", "path", "why"), rows)


TABLES = {"routing": routing_markdown}


def main(arguments: Sequence[str]) -> None:
    """Print the table, or, for each file named, make the one in it anew: `<!-- table routing --> ... <!-- end -->`."""
    if not arguments:
        print(routing_table())
    for argument in arguments:
        file = FilePath(argument)
        file.write_text(render(file.read_text(), TABLES))


if __name__ == "__main__":
    main(sys.argv[1:])
