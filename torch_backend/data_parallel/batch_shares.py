"""Splits a DataLoader's batches over the ranks by the samples' indices, so that each rank loads its share alone."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from switchml.errors import UsageError


@dataclass(frozen=True)
class Share:
    """Of one batch. `mine` samples of `whole` count for this rank."""

    mine: int
    whole: int

    def weight(self, world_size: int) -> float:
        """By which this rank's gradients count, where 1 is the ranks' average."""
        return self.mine * world_size / self.whole


def share_of(batch: Sequence[Any], rank: int, world_size: int) -> tuple[list[Any], Share]:
    """A rank's part of a batch, in order; of fewer samples than ranks some have one that does not count.

    Args:
        batch: indices of samples.
        rank: whose part.
        world_size: ranks among which it is split.
    """
    size, more = divmod(len(batch), world_size)
    begin = rank * size + min(rank, more)
    mine = list(batch[begin : begin + size + (rank < more)])
    return mine or list(batch[:1]), Share(len(mine), len(batch))


class SharedBatches:
    """In the place of a loader's batch sampler.

    Args:
        batches: the loader's own.
        rank: of this process.
        world_size: ranks.
        drawn: called with a checksum of an epoch's batches before the first is given out; raises where ranks disagree.
    """

    def __init__(self, batches: Any, rank: int, world_size: int, drawn: Callable[[int], None]) -> None:
        self.split = False
        self.shares: deque[Share] = deque()
        self.original = batches
        self._rank, self._world_size, self._drawn = rank, world_size, drawn

    def __iter__(self) -> Iterator[Any]:
        self.shares = deque()
        return self._parts(self.shares) if self.split else iter(self.original)

    def __len__(self) -> int:
        return len(self.original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["original"], name)

    def _parts(self, shares: deque[Share]) -> Iterator[list[Any]]:
        # All at once: a sampler may draw from generators that differ between ranks once these train.
        batches = [list(batch) for batch in self.original]
        checksum = 0
        for batch in batches:
            checksum = zlib.crc32(repr(batch).encode(), checksum)
        self._drawn(checksum)
        for batch in batches:
            mine, share = share_of(batch, self._rank, self._world_size)
            shares.append(share)
            yield mine


def check_splittable(loader: Any) -> None:
    """Whether the loader's batches are lists of indices that come in the same order on each rank.

    Raises:
        UsageError: they are not.
    """
    from torch.utils.data import IterableDataset

    if isinstance(loader.dataset, IterableDataset):
        raise UsageError(
            "--data-parallel cannot split batches of an IterableDataset: it gives samples as they come, and nothing tells the "
            "ranks that theirs are the same; use a dataset with __getitem__ and __len__"
        )
    if loader.batch_sampler is None:
        raise UsageError(
            "--data-parallel cannot split batches that the dataset makes itself (DataLoader with batch_size=None)"
        )
    if not getattr(loader, "in_order", True):
        raise UsageError("--data-parallel takes a DataLoader's batches in order: leave in_order=False out")
    try:
        len(loader.batch_sampler)
    except TypeError:
        raise UsageError(
            "--data-parallel cannot split a DataLoader whose sampler has no length: an epoch's batches are drawn at its begin"
        ) from None
