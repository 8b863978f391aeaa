"""Which packets are wanted: by job, slot, rank and number, for `switchml decode` and for traces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """What is asked for; None = all."""

    job: int | None = None
    slot: int | None = None
    rank: int | None = None
    count: int | None = None

    def takes(self, job: int, slot: int, rank: int | None, everyone: bool = False) -> bool:
        """Whether a packet is wanted, but for the count.

        Args:
            job: number.
            slot: of the job.
            rank: the worker's; None = not known.
            everyone: it is for all workers of the job.
        """
        return (
            self.job in (None, job)
            and self.slot in (None, slot)
            and (self.rank in (None, rank) or (everyone and rank is None))
        )
