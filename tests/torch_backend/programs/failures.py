"""Collectives that cannot succeed; prints what came out of each, and that a new group works after it."""

import json
import os
import sys
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def caught(function):
    begin = time.monotonic()
    try:
        function()
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error), "seconds": time.monotonic() - begin}
    return {"error": ""}


def mismatch():
    """Ranks give different sizes."""
    work = dist.all_reduce(torch.ones(10 + RANK), async_op=True)
    report = caught(work.wait)
    assert work.is_completed()
    assert not work.is_success()
    assert type(work.exception()).__name__ == report["error"]
    return report


def path_mismatch():
    """One rank's tensor goes over the switch, the other's over gloo."""
    dtype = (torch.float32, torch.float64)[RANK]
    return caught(lambda: dist.all_reduce(torch.ones(100_000, dtype=dtype)))


def missing_rank():
    """Rank 1 does not come; nobody waits for the work, the future has to fail by itself."""
    if RANK == 1:
        time.sleep(3)
        return {}
    work = dist.all_reduce(torch.ones(10), async_op=True)
    future = work.get_future()
    report = {"future": caught(future.wait)}
    assert future.done()
    report["wait"] = caught(work.wait)
    ended, turns = threading.Event(), []

    def take_turns():
        while not ended.wait(0.01):
            turns.append(1)

    other = threading.Thread(target=take_turns)
    other.start()
    report["sync"] = caught(lambda: dist.all_reduce(torch.ones(3)))
    ended.set()
    other.join()
    report["turns_of_another_thread"] = len(turns)
    return report


def missing_backward():
    """DDP on rank 0 waits for gradients of rank 1."""
    module = DistributedDataParallel(torch.nn.Linear(4, 2))
    if RANK == 1:
        time.sleep(3)
        return {}
    return caught(lambda: module(torch.ones(2, 4)).sum().backward())


def impatient_wait():
    """A wait that is shorter than the collective's deadline leaves the collective alone."""
    if RANK == 1:
        time.sleep(1)
    tensor = torch.ones(4)
    work = dist.all_reduce(tensor, async_op=True)
    report = caught(lambda: work.wait(timedelta(milliseconds=50))) if RANK == 0 else {}
    work.wait()
    assert torch.equal(tensor, torch.full((4,), 2.0))
    return report


def open_group(name):
    dist.init_process_group(
        "switchml",
        store=dist.PrefixStore(name, STORE),
        rank=RANK,
        world_size=WORLD,
        timeout=timedelta(seconds=30),
    )


RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
# One store for all groups: with one each, a fast rank could meet the server of the group before.
STORE = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), WORLD, RANK == 0)
report = {}
for case in sys.argv[1:]:
    open_group(case)
    if case.startswith("missing"):
        dist.barrier()
        dist.group.WORLD.set_timeout(timedelta(seconds=2))
    report[case] = globals()[case]()
    dist.destroy_process_group()
open_group("afterwards")
tensor = torch.ones(2)
dist.all_reduce(tensor)
dist.destroy_process_group()
report["afterwards"] = tensor.tolist()
STORE.add("ended", 1)
while RANK == 0 and STORE.add("ended", 0) < WORLD:  # the server is here
    time.sleep(0.01)
print(json.dumps(report))
