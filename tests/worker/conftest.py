"""Worlds of workers, each in a thread of its own, on emulators in this process."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from switchml.switch_emulator import Emulator
from switchml.worker import Worker
from switchml.worker.connection import UdpConnection

T = TypeVar("T")

_SECONDS = 100
_jobs = itertools.count()

TRANSPORTS: dict[str, dict[str, Any]] = {
    "memory": {"transport": "memory"},
    "shm": {"transport": "shm"},
    "multicast": {"transport": "udp"},
    "unicast": {"transport": "udp", "multicast": False},
    "no offload": {"transport": "udp", "multicast": False},
}


def new_job() -> str:
    """A job name of its own."""
    return f"job-{next(_jobs)}"


def at_once(calls: Sequence[Callable[[], T]]) -> list[T | BaseException]:
    """Run every call in a thread; results or what they raised, in order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures: list[Future[T]] = [pool.submit(call) for call in calls]
        return [
            error if (error := future.exception(_SECONDS)) is not None else future.result()
            for future in futures
        ]


def all_well(results: list[T | BaseException]) -> list[T]:
    """The results, after raising the first error among them."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


class World:
    """All ranks of one job. options: of `Worker.join`, for all; each: more for single ranks."""

    def __init__(
        self, switch: str, size: int, each: dict[int, dict[str, Any]] | None = None, **options: Any
    ) -> None:
        job = options.pop("job", None) or new_job()
        options = {"join_timeout": 60.0, "timeout": 30.0, **options}
        joins = []
        for rank in range(size):
            own = {"switch": switch, "world_size": size, **options, **(each or {}).get(rank, {})}
            joins.append(functools.partial(Worker.join, job=job, rank=rank, **own))
        joined = at_once(joins)
        self.workers = [worker for worker in joined if isinstance(worker, Worker)]
        if len(self.workers) < size:
            self.close()
        all_well(joined)

    def run(self, body: Callable[[Worker], T]) -> list[T]:
        """`body` for every rank at once; raises what any of them raises."""
        return all_well(self.attempt(body))

    def attempt(self, body: Callable[[Worker], T]) -> list[T | BaseException]:
        """As `run`, but errors are among the results."""
        return at_once([functools.partial(body, worker) for worker in self.workers])

    def close(self) -> None:
        for worker in self.workers:
            worker.leave()


Worlds = Callable[..., World]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


@pytest.fixture(scope="module")
def plain_emulator() -> Iterator[Emulator]:
    """Without segmentation offload."""
    with Emulator(offload=False) as running:
        yield running


@pytest.fixture
def worlds(emulator: Emulator) -> Iterator[Worlds]:
    """Makes worlds, on `emulator` unless told otherwise, and ends them."""
    made: list[World] = []

    def make(size: int, *, switch: str = "", **options: Any) -> World:
        made.append(World(switch or emulator.control_address, size, **options))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture(params=TRANSPORTS)
def transport_worlds(
    request: pytest.FixtureRequest, worlds: Worlds, plain_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> Worlds:
    """As `worlds`, by each transport in turn."""
    options = dict(TRANSPORTS[request.param])
    if request.param == "no offload":
        monkeypatch.setattr(
            "switchml.worker.seat.UdpConnection", functools.partial(UdpConnection, offload=False)
        )
        options["switch"] = plain_emulator.control_address
    made = functools.partial(worlds, **options)

    def make(size: int, **more: Any) -> World:
        world = made(size, **more)
        kinds = {worker.transport for worker in world.workers}
        by_multicast = {worker.multicast for worker in world.workers}
        assert kinds == {request.param if request.param in ("memory", "shm") else "udp"}
        assert by_multicast == {request.param == "multicast" and size > 1}
        return world

    return make


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [
        thread.name
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith("switchml-stream")
    ]
    assert left == []
