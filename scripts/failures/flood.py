"""How long a job's all-reduces take alone, beside an honest job, and beside one whose worker floods the switch.

    python scripts/failures/flood.py [--json FILE]

The flood is of malformed packets from the port of a worker, 60 a system call, as fast as one process can: several million a
second. All three take turns, in one switch and one job.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from switchml.switch_emulator import Emulator
from switchml.worker import Worker

_PACKET = 1034
_SOL_UDP, _UDP_SEGMENT = 17, 103
_SETTLED = 2.0
_CALLS = 10


def join(switch: str, job: str, rank: int) -> Worker:
    """One of two workers, over UDP."""
    return Worker.join(switch, job=job, rank=rank, world_size=2, transport="udp", timeout=60)


def honest(switch: str, rank: int, elements: int, over: Any) -> None:
    """All-reduces, one after the other. The last one has no partner: the process ends as it is."""
    worker = join(switch, "beside", rank)
    values = np.ones(elements, np.float32)
    while not over.is_set():
        with contextlib.suppress(Exception):
            worker.allreduce(values).wait()
    os._exit(0)


def flooding(switch: str, rank: int, elements: int, over: Any) -> None:
    """Rank 0 floods from its worker's port."""
    worker = join(switch, "beside", rank)
    worker.allreduce(np.ones(1000, np.float32)).wait()
    if rank == 0:
        with socket.socket(fileno=os.dup(_data_port())) as port:
            port.setblocking(True)
            port.setsockopt(_SOL_UDP, _UDP_SEGMENT, _PACKET)
            while not over.is_set():
                with contextlib.suppress(OSError):
                    port.send(bytes(60 * _PACKET))
    over.wait()
    os._exit(0)


def _data_port() -> int:
    """Of this process's sockets, the one that is connected to the switch by UDP."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError, ValueError):
            found = socket.socket(fileno=os.dup(int(name)))
            with found:
                if found.type == socket.SOCK_DGRAM and found.getpeername():
                    return int(name)
    raise RuntimeError("there is no such socket")


def timed(switch: str, rank: int, elements: int, turn: Any, told: Any) -> None:
    """A rank of the job that is timed: a batch of all-reduces a turn."""
    worker = join(switch, "timed", rank)
    values = np.ones(elements, np.float32)
    worker.allreduce(values).wait()
    while True:
        turn.wait()
        begin = time.perf_counter()
        for _ in range(_CALLS):
            worker.allreduce(values).wait()
        if rank == 0:
            told.put((time.perf_counter() - begin) / _CALLS)
        turn.wait()


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--elements", type=int, default=1 << 20, help="float32 of an all-reduce")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    beside: dict[str, Callable[..., None] | None] = {"alone": None, "honest": honest, "flood": flooding}
    found: dict[str, list[float]] = {name: [] for name in beside}
    make = multiprocessing.get_context("spawn")
    with Emulator() as switch:
        turn, told = make.Barrier(3), make.Queue()
        place = switch.control_address
        ranks = [
            make.Process(target=timed, args=(place, rank, options.elements, turn, told), daemon=True)
            for rank in range(2)
        ]
        for one in ranks:
            one.start()
        for _ in range(options.rounds):
            for name, work in beside.items():
                over = make.Event()
                others = [
                    make.Process(target=work, args=(place, rank, options.elements, over), daemon=True)
                    for rank in range(2 if work else 0)
                ]
                for one in others:
                    one.start()
                time.sleep(_SETTLED if others else 0)
                turn.wait()
                turn.wait()
                found[name].append(told.get())
                over.set()
                for one in others:
                    one.join(10)
                    one.kill()
        counters = {name: count for name, count in switch.target.counters().items() if count}
        for one in ranks:
            one.kill()
    share = statistics.median(found["honest"])
    for name, seconds in found.items():
        ms = [1e3 * each for each in seconds]
        middle = statistics.median(ms)
        print(
            f"{name:7}{middle:9.2f} ms [{min(ms):.2f} {max(ms):.2f}]  {middle / 1e3 / share:.2f} of its fair share's"
        )
    print(", ".join(f"{name} {counters.get(name, 0)}" for name in ("floods_cut", "dropped_by_kernel")))
    if options.json:
        options.json.write_text(json.dumps({"seconds": found, "counters": counters}, indent=2) + "\n")


if __name__ == "__main__":
    main()
