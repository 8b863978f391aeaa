"""Under `torchrun --max-restarts`: rank 0 is killed at another place in each of the first four attempts.

`restarted.py [FILE]`: meets in a file, which outlives the attempts, in the place of torchrun's store.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])


def die_at(place: int) -> None:
    if rank == 0 and attempt == place:
        os.kill(os.getpid(), signal.SIGKILL)


if rank == attempt == 0 and len(sys.argv) > 1:  # the other has begun to make the group, this one never does
    given_up = time.monotonic() + 60
    while not Path(sys.argv[1]).exists() or b"opened/1" not in Path(sys.argv[1]).read_bytes():
        assert time.monotonic() < given_up, "rank 1 never opened the group"
        time.sleep(0.05)
die_at(0)
if attempt == 1:  # while the group is made
    threading.Timer(0.2, die_at, [1]).start()
where = f"file://{sys.argv[1]}" if len(sys.argv) > 1 else "env://"
dist.init_process_group("switchml", where, rank=rank, world_size=int(os.environ["WORLD_SIZE"]))
die_at(2)
tensor = torch.ones(100_000)
for step in range(10):
    dist.all_reduce(tensor)
    tensor /= dist.get_world_size()
    if step == 5:
        die_at(3)
print(f"rank {rank}, attempt {attempt}: {tensor.sum().item():g}", flush=True)
dist.destroy_process_group()
