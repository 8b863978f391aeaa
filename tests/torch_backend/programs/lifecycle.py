"""Groups come and go in one process; prints what is left of them."""

import json
import os
import subprocess
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist


def total(group=None):
    tensor = torch.full((3,), dist.get_rank() + 1.0)
    dist.all_reduce(tensor, group=group)
    return tensor[0].item()


def left_over():
    command = ["ps", "-o", "args=", "--ppid", str(os.getpid())]
    children = subprocess.run(command, capture_output=True, text=True)
    return {
        "threads": [thread.name for thread in threading.enumerate() if thread.name.startswith("switchml")],
        "switches": [line for line in children.stdout.splitlines() if "switch_emulator" in line],
    }


RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
# It outlives the groups, as torchrun's does.
STORE = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), WORLD, RANK == 0)

report = {"sums": [], "left": []}
for _ in range(3):
    dist.init_process_group(
        "switchml", store=STORE, rank=RANK, world_size=WORLD, timeout=timedelta(seconds=30)
    )
    report["sums"].append(total())
    whole = dist.new_group()
    report["sums"].append(total(whole))
    unused = dist.new_group()
    report["one_switch"] = whole.switch_address == dist.group.WORLD.switch_address
    report["unused"] = unused.switch_address
    dist.destroy_process_group(whole)
    report["sums"].append(total())
    received = torch.empty(1)
    if RANK == 0:
        dist.send(torch.ones(1), 1)
    else:
        dist.recv(received, 0)
    dist.barrier()
    group = dist.group.WORLD
    dist.destroy_process_group()
    group.shutdown()  # again does nothing
    try:
        group.allreduce([torch.ones(1)])
    except Exception as error:
        report["after_shutdown"] = type(error).__name__
    del group, whole, unused
    report["left"].append(left_over())
STORE.add("ended", 1)
while RANK == 0 and STORE.add("ended", 0) < WORLD:  # the server is here
    time.sleep(0.01)
print(json.dumps(report))
