"""DeepSpeed, ZeRO stage 0: init_distributed(dist_backend=...).

with_deepspeed.py BACKEND FOLDER
"""

import sys

import deepspeed
import torch
import torch.distributed as dist
from regression import BATCH, LEARNING_RATE, WORKERS, dataset, loss_of, network, report, tell
from torch.utils.data import DataLoader

BACKEND, FOLDER = sys.argv[1:]

# Used for inference alone, and compiled when a process group is made.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.init_distributed(dist_backend=BACKEND)
model = network()
engine, _, _, _ = deepspeed.initialize(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
    config={
        "train_batch_size": BATCH * WORKERS,
        "train_micro_batch_size_per_gpu": BATCH,
        "zero_optimization": {"stage": 0},
        "gradient_clipping": 0.0,  # to 1.0 by default
    },
)
losses = []
for inputs, targets in DataLoader(dataset(dist.get_rank()), BATCH):
    loss = loss_of(engine(inputs), targets)
    engine.backward(loss)
    engine.step()
    losses.append(loss.item())
tell(FOLDER, report(losses))
dist.destroy_process_group()
