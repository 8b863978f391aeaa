"""Ranks as threads of the test, over a worker made of torch's in-memory store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is in the extra `torch`")

import torch
import torch.distributed as dist
from host_stream import HostStream
from store_worker import StoreJobs, on_every_rank

from switchml.torch_backend.cuda.staged import Streams
from switchml.torch_backend.hooks.averager import Averager
from switchml.torch_backend.job_pair import JobPair
from switchml.torch_backend.options import Options


class Ranks:
    """Runs a function on every rank, with an averager each; each rank is a thread."""

    def __init__(self) -> None:
        self.averagers: list[Averager] = []
        self.host_streams: list[HostStream] = []

    def open_streams(self, device: torch.device, workers: int) -> Streams:
        """The stand-in for a GPU's."""
        down, up = HostStream(), HostStream()
        self.host_streams += [down, up]
        return Streams(down, up)

    def close(self) -> None:
        for averager in self.averagers:
            averager.close()
        for stream in self.host_streams:
            stream.close()

    def run(
        self,
        world_size: int,
        wire: str,
        body: Callable[[Averager, int], Any],
        *,
        feedback: bool = True,
        seed: int = 0,
    ) -> list[Any]:
        """`body(averager, rank)` on each; returns what each returned, by rank."""
        store = dist.HashStore()
        open_worker = StoreJobs(dist.HashStore(), world_size).open

        def rank_thread(rank: int) -> Any:
            jobs = JobPair(
                store,
                rank,
                world_size,
                timeout=timedelta(seconds=20),
                options=Options(switch="nowhere:1", wire=wire),
                open_worker=open_worker,
            )
            averager = Averager(jobs, feedback=feedback, seed=seed, open_streams=self.open_streams)
            self.averagers.append(averager)
            return body(averager, rank)

        return on_every_rank(world_size, rank_thread)


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    made = Ranks()
    yield made
    made.close()
