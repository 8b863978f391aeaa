"""Sums over the ranks on the switch; each rank writes what it saw into FOLDER.

sum_ranks.py FOLDER [--fail RANK]
"""

import json
import os
import sys

import torch
import torch.distributed as dist

dist.init_process_group("switchml")
rank = dist.get_rank()
if sys.argv[2:] == ["--fail", str(rank)]:
    raise RuntimeError("as asked")
total = torch.full((5000,), rank + 1.0)
dist.all_reduce(total)
group = dist.group.WORLD
found = {
    "sum": total[0].item(),
    "world_size": dist.get_world_size(),
    "local_rank": os.environ["LOCAL_RANK"],
    "local_world_size": os.environ["LOCAL_WORLD_SIZE"],
    "node": os.environ.get("GROUP_RANK"),
    "switch": group.switch_address,
    "packets": group.switch_counters()["packets_sent"],
}
with open(f"{sys.argv[1]}/rank{rank}.json", "w") as file:
    json.dump(found, file)
dist.destroy_process_group()
