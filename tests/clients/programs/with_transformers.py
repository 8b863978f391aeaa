"""transformers' Trainer: the process group is there before TrainingArguments(use_cpu=True).

with_transformers.py BACKEND FOLDER
"""

import sys

import torch
import torch.distributed as dist
from regression import BATCH, LEARNING_RATE, dataset, loss_of, network, report, tell
from transformers import Trainer, TrainingArguments

BACKEND, FOLDER = sys.argv[1:]

dist.init_process_group(BACKEND)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network()
        self.losses = []

    def forward(self, inputs, labels):
        loss = loss_of(self.network(inputs), labels)
        self.losses.append(loss.item())
        return {"loss": loss}


class Rows(torch.utils.data.Dataset):
    """Rows of all ranks, so that the sampler's shares are each rank's own data in its own order."""

    def __init__(self):
        self.parts = [dataset(rank) for rank in range(dist.get_world_size())]

    def __len__(self):
        return sum(map(len, self.parts))

    def __getitem__(self, index):
        inputs, labels = self.parts[index % len(self.parts)][index // len(self.parts)]
        return {"inputs": inputs, "labels": labels}


model = Model()
arguments = TrainingArguments(
    output_dir=f"{FOLDER}/out",
    use_cpu=True,
    per_device_train_batch_size=BATCH,
    num_train_epochs=1,
    learning_rate=LEARNING_RATE,
    lr_scheduler_type="constant",
    max_grad_norm=0.0,
    optim="sgd",
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
    dataloader_pin_memory=False,
)
trainer = Trainer(model=model, args=arguments, train_dataset=Rows())
trainer.train()
assert isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
tell(FOLDER, report(model.losses))
dist.destroy_process_group()
