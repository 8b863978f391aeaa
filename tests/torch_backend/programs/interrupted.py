"""Ranks that end in the middle of things: `interrupted.py wait|die|raise|destroy RANK`."""

import json
import os
import signal
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

how, victim = sys.argv[1], int(sys.argv[2])
dist.init_process_group("switchml", timeout=timedelta(seconds=30))
rank = dist.get_rank()
dist.barrier()
print("ready", flush=True)
if rank == victim:
    time.sleep(1)  # the others wait by then
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raise":
        raise ValueError("no such file")
    if how == "destroy":
        dist.destroy_process_group()
    time.sleep(60 if how == "wait" else 10)
begin = time.monotonic()
try:
    dist.all_reduce(torch.ones(100000))
except Exception as error:
    print(
        json.dumps({"error": type(error).__name__, "text": str(error), "seconds": time.monotonic() - begin})
    )
# No destroy_process_group: the end of the program has to do.
