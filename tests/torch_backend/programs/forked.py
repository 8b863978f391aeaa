"""A forked child of each rank tries to use its parent's process group; prints what it got, and the parent's sums."""

import json
import os
from datetime import timedelta

import torch
import torch.distributed as dist


def caught(function):
    try:
        function()
    except Exception as error:
        return type(error).__name__
    return ""


def in_child(function):
    """What `function` returns there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, json.dumps(function()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    os.waitpid(child, 0)
    return json.loads(text)


dist.init_process_group("switchml", timeout=timedelta(seconds=60))
RANK, WORLD = dist.get_rank(), dist.get_world_size()
STORE = dist.group.WORLD.get_group_store()
report = {"sums": []}
large = torch.ones(1 << 17, dtype=torch.float64)  # over gloo
tensor = torch.full((4000,), RANK + 1.0)
flying = None
if RANK == 0:
    flying = dist.all_reduce(tensor, async_op=True)
else:
    STORE.wait(["forked"])


def child():
    tries = {
        "all_reduce": lambda: dist.all_reduce(torch.full((4000,), 100.0)),
        "asynchronous": lambda: dist.all_reduce(torch.full((4000,), 100.0), async_op=True),
        "barrier": dist.barrier,
        "over gloo": lambda: dist.all_reduce(large),
        "all_to_all": lambda: dist.all_to_all_single(torch.empty(WORLD), torch.ones(WORLD)),
        "send": lambda: dist.send(torch.ones(1), 1 - RANK),
    }
    if flying is not None:
        tries |= {"wait": flying.wait, "future": flying.get_future}
    errors = {name: caught(attempt) for name, attempt in tries.items()}
    dist.group.WORLD.shutdown()  # nothing to the parent
    return errors


report["child"] = in_child(child)
if RANK == 0:
    STORE.set("forked", "1")
    flying.wait()
else:
    dist.all_reduce(tensor)
report["sums"] = [tensor.min().item(), tensor.max().item()]
for _ in range(20):
    tensor = torch.full((4000,), RANK + 1.0)
    dist.all_reduce(tensor)
    report["sums"] += [tensor.min().item(), tensor.max().item()]
dist.destroy_process_group()
print(json.dumps(report))
