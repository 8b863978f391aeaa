"""Groups used for the first time in different orders, then more groups than the switch has room for; prints sums and seconds."""

import json
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

RANK = int(os.environ["RANK"])
GROUPS = int(sys.argv[1])
BACKEND = sys.argv[2] if len(sys.argv) > 2 else "switchml"

dist.init_process_group(BACKEND, timeout=timedelta(seconds=120))
first, second = dist.new_group(), dist.new_group()
tensors = [torch.full((3,), RANK + 1.0) for _ in range(2)]
works = [
    dist.all_reduce(tensor, group=group, async_op=True)
    for group, tensor in [(first, tensors[0]), (second, tensors[1])][:: 1 if RANK == 0 else -1]
]
for work in works:
    work.wait()
report = {"orders": [tensor.tolist() for tensor in tensors]}

begin = time.monotonic()
groups = [dist.new_group() for _ in range(GROUPS)]
report["made"] = time.monotonic() - begin
begin = time.monotonic()
sums = []
for number, group in enumerate(groups):
    tensor = torch.full((3,), RANK + number + 0.5)
    dist.all_reduce(tensor, group=group)
    sums.append(tensor[0].item())
report["used"] = time.monotonic() - begin
report["wrong"] = sum(total != 2 * number + 2.0 for number, total in enumerate(sums))
if BACKEND == "switchml":
    report["on_the_switch"] = sum(group.switch_address != "" for group in groups)
begin = time.monotonic()
dist.barrier()
dist.destroy_process_group()
report["destroyed"] = time.monotonic() - begin
print(json.dumps(report))
