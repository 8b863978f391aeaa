"""Under `torchrun --max-restarts`: rank 0 is killed in each of the first attempts.

`restarted.py PLACES [FILE]`: at these places in turn; meets in a file, which outlives the attempts, in the place of torchrun's
store.
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
dying = dict(enumerate(map(int, sys.argv[1]))).get(attempt)
files = sys.argv[2:]


def die_at(place: int) -> None:
    if rank == 0 and place == dying:
        os.kill(os.getpid(), signal.SIGKILL)


if files and rank == dying == 0:  # the other has begun to make the group, this one never does
    given_up = time.monotonic() + 60
    while not Path(files[0]).exists() or b"opened/1" not in Path(files[0]).read_bytes():
        assert time.monotonic() < given_up, "rank 1 never opened the group"
        time.sleep(0.05)
die_at(0)
if dying == 1:  # while the group is made
    threading.Timer(0.2, die_at, [1]).start()
where = f"file://{files[0]}" if files else "env://"
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
