"""Accelerate: the process group is there before the Accelerator, which takes it as it is.

with_accelerate.py BACKEND FOLDER
"""

import sys

import torch
import torch.distributed as dist
from accelerate import Accelerator
from regression import BATCH, LEARNING_RATE, dataset, loss_of, network, report, tell
from torch.utils.data import DataLoader

BACKEND, FOLDER = sys.argv[1:]

dist.init_process_group("gloo" if BACKEND == "hook" else BACKEND)
accelerator = Accelerator(cpu=True)
model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
model, optimizer = accelerator.prepare(model, optimizer)
assert isinstance(model, torch.nn.parallel.DistributedDataParallel)
if BACKEND == "hook":
    from switchml.torch_backend.hooks import SwitchState, switchml_hook

    model.register_comm_hook(SwitchState(), switchml_hook)
losses = []
for inputs, targets in DataLoader(dataset(accelerator.process_index), BATCH):
    optimizer.zero_grad()
    loss = loss_of(model(inputs), targets)
    accelerator.backward(loss)
    optimizer.step()
    losses.append(loss.item())
tell(FOLDER, report(losses))
accelerator.end_training()  # destroys the process group
