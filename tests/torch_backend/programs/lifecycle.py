"""Groups come and go in one process; prints what is left of them."""

import json
import os
import subprocess
import threading
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


report = {"sums": [], "left": []}
for _ in range(2):
    dist.init_process_group("switchml", timeout=timedelta(seconds=30))
    world = dist.get_world_size()
    report["sums"].append(total())
    whole = dist.new_group()
    report["sums"].append(total(whole))
    unused = dist.new_group()
    same_switch = whole.switch_address == dist.group.WORLD.switch_address
    report["one_switch"] = same_switch
    report["unused"] = unused.switch_address
    dist.destroy_process_group(whole)
    report["sums"].append(total())
    dist.destroy_process_group()
    report["left"].append(left_over())

# A store that outlives the group, as torchrun's does.
store = dist.TCPStore(
    os.environ["MASTER_ADDR"], int(os.environ["STORE_PORT"]), world, os.environ["RANK"] == "0"
)
for _ in range(2):
    dist.init_process_group(
        "switchml", store=store, rank=int(os.environ["RANK"]), world_size=world, timeout=timedelta(seconds=30)
    )
    report["sums"].append(total())
    received = torch.empty(1)
    if dist.get_rank() == 0:
        dist.send(torch.ones(1), 1)
    elif dist.get_rank() == 1:
        dist.recv(received, 0)
    dist.barrier()
    group = dist.group.WORLD
    dist.destroy_process_group()
    group.shutdown()  # again does nothing
    try:
        group.allreduce([torch.ones(1)])
    except Exception as error:
        report["after_shutdown"] = type(error).__name__
report["left"].append(left_over())
print(json.dumps(report))
