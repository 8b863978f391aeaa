"""Process groups whose ranks are threads of the test, over a worker made of torch's in-memory store.

What a collective does on a switch is tested elsewhere; here it is what torch makes of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from free_port import free_port
from preloaded import Template
from store_worker import StoreJobs, StoreWorker, on_every_rank

from switchml.torch_backend.creation import create_process_group
from switchml.torch_backend.options import Options

PROGRAMS = Path(__file__).parent / "programs"


class Ranks:
    """Runs a function on every rank of a fresh group, each rank a thread."""

    def __init__(self) -> None:
        self.workers: dict[int, StoreWorker] = {}
        self.groups: list[Any] = []

    def run(
        self,
        world_size: int,
        body: Callable[[Any, int], Any],
        *,
        timeout: float = 20.0,
        options: Options | None = None,
    ) -> list[Any]:
        """`body(group, rank)` on each; returns what each returned, by rank."""
        store = dist.HashStore()
        jobs = StoreJobs(store, world_size)
        self.workers = jobs.workers

        def rank_thread(rank: int) -> Any:
            described = SimpleNamespace(
                store=store,
                group_rank=rank,
                group_size=world_size,
                timeout=timedelta(seconds=timeout),
                group_id="test",
                global_ranks_in_group=[],
            )
            group = create_process_group(
                described, options or Options(switch="nowhere:1"), open_worker=jobs.open
            )
            self.groups.append(group)
            return body(group, rank)

        return on_every_rank(world_size, rank_thread)


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    made = Ranks()
    yield made
    for group in made.groups:
        group.shutdown()


@dataclass
class RankProcess:
    """One rank of a program in programs/."""

    process: subprocess.Popen[str]
    stdout: str = ""
    stderr: str = ""

    @property
    def report(self) -> Any:
        """The JSON on its last line."""
        assert self.stdout.strip(), self.stderr
        return json.loads(self.stdout.strip().splitlines()[-1])


class Launcher:
    """Starts programs, one process a rank, over loopback; ends what is left of them."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.started: list[RankProcess] = []

    def start(self, program: str, world_size: int, *arguments: str, **environment: str) -> list[RankProcess]:
        shared = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(world_size),
            "OMP_NUM_THREADS": "1",
        }
        shared.update(environment)
        command = [str(PROGRAMS / program), *arguments]
        fresh = [
            RankProcess(self.template.start(command, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
            for rank in range(world_size)
        ]
        self.started += fresh
        return fresh

    def finish(self, processes: list[RankProcess], timeout: float = 90.0) -> None:
        deadline = time.monotonic() + timeout
        for rank in processes:
            rank.stdout, rank.stderr = rank.process.communicate(timeout=max(0.1, deadline - time.monotonic()))

    def run(self, program: str, world_size: int, *arguments: str, **environment: str) -> list[Any]:
        """The reports of all ranks, which must all end well."""
        processes = self.start(program, world_size, *arguments, **environment)
        self.finish(processes)
        for rank in processes:
            assert rank.process.returncode == 0, rank.stderr
        return [rank.report for rank in processes]


@pytest.fixture(scope="module")
def launcher(template: Template) -> Iterator[Launcher]:
    made = Launcher(template)
    yield made
    for rank in made.started:
        if rank.process.poll() is None:
            rank.process.kill()
            rank.process.communicate()
