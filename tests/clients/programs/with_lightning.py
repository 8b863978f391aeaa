"""Lightning's Trainer: DDPStrategy(process_group_backend=...), or gloo and the hook.

with_lightning.py BACKEND FOLDER
"""

import sys

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from regression import BATCH, LEARNING_RATE, WORKERS, dataset, loss_of, network, report, tell
from torch.utils.data import DataLoader

BACKEND, FOLDER = sys.argv[1:]


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = network()
        self.losses = []

    def training_step(self, batch, index):
        loss = loss_of(self.network(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)

    def train_dataloader(self):
        return DataLoader(dataset(self.global_rank), BATCH)

    def on_train_end(self):
        tell(FOLDER, report(self.losses))


def strategy():
    if BACKEND != "hook":
        return DDPStrategy(process_group_backend=BACKEND)
    from switchml.torch_backend.hooks import SwitchState, switchml_hook

    return DDPStrategy(
        process_group_backend="gloo", ddp_comm_state=SwitchState(), ddp_comm_hook=switchml_hook
    )


trainer = lightning.Trainer(
    accelerator="cpu",
    devices=WORKERS,
    strategy=strategy(),
    max_epochs=1,
    use_distributed_sampler=False,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Module())
