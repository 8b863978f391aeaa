"""What all ranks must have in common: random generators, which are rank 0's, and values, which are compared."""

from __future__ import annotations

import random
import sys
import zlib
from typing import Any

import torch
import torch.distributed as dist

from switchml.errors import UsageError
from switchml.torch_backend.tensors import memory_of

_PYTHON_WORDS = 627  # of random.getstate(): 625 integers, whether a Gaussian value is kept, and that
_NUMPY_WORDS = (
    627  # of numpy.random.get_state(): 624 integers, position, whether a Gaussian value is kept, and that
)


def share_generators() -> None:
    """Sets torch's, Python's and numpy's global generators to what they are on rank 0."""
    own = torch.get_rng_state()
    dist.broadcast(own, 0)
    torch.set_rng_state(own)
    numpy: Any = sys.modules.get("numpy")
    words = torch.tensor([*_python_words(), *_numpy_words(numpy)], dtype=torch.float64)
    dist.broadcast(words, 0)
    values = words.tolist()
    integers = [int(value) for value in values[:625]]
    gauss = values[626] if values[625] else None
    random.setstate((random.getstate()[0], tuple(integers), gauss))
    if numpy is not None:
        keys = [int(value) for value in values[_PYTHON_WORDS : _PYTHON_WORDS + 624]]
        position, kept, cached = values[_PYTHON_WORDS + 624 :]
        numpy.random.set_state(("MT19937", numpy.array(keys, numpy.uint32), int(position), int(kept), cached))


def _python_words() -> list[float]:
    _, integers, gauss = random.getstate()
    return [*integers, gauss is not None, gauss or 0.0]


def _numpy_words(numpy: Any) -> list[float]:
    if numpy is None:
        return [0.0] * _NUMPY_WORDS
    state = numpy.random.get_state(legacy=False)
    kept = state["state"]
    return [*kept["key"].tolist(), kept["pos"], state["has_gauss"], state["gauss"]]


def part_generators(rank: int) -> None:
    """From here on torch draws other numbers on each rank: noise and dropout of the shares are independent.

    Rank 0 goes on as one process would. Python's and numpy's generators stay alike, since scripts decide by them.
    """
    if rank:
        torch.manual_seed((torch.initial_seed() + int(torch.randint(2**62, ())) + rank) % 2**63)


GONE = -1
"""In the place of a value that this rank has not got, and that therefore is not compared."""


def digest(tensor: torch.Tensor) -> int:
    """A checksum of its bytes."""
    return zlib.crc32(memory_of(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)).data)


def differing(values: list[int]) -> list[tuple[int, int]]:
    """Where ranks disagree with rank 0, as (rank, place in `values`); all must give as many.

    Raises:
        UsageError: they don't.
    """
    counts = _of_all([len(values)])
    if counts.min() != counts.max():
        raise UsageError(
            f"the ranks of this script do not do the same: they have {counts.view(-1).tolist()} tensors, by rank"
        )
    if not values:
        return []
    rows = _of_all(values)
    unlike = (rows != rows[0]) & (rows != GONE).all(0)
    return [(rank, place) for rank, place in unlike.nonzero().tolist()]


def _of_all(values: list[int]) -> torch.Tensor:
    mine = torch.tensor(values, dtype=torch.int64)
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, mine)
    return torch.stack(rows)
