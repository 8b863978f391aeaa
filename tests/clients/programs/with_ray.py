"""Ray Train: TorchConfig(backend=...). It starts the workers itself.

with_ray.py BACKEND FOLDER
"""

import sys
import tempfile

import ray
import regression
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, prepare_model

BACKEND, FOLDER = sys.argv[1:]


def train():
    import torch.distributed as dist
    from torch.utils.data import DataLoader

    model = prepare_model(regression.network())
    assert isinstance(model, torch.nn.parallel.DistributedDataParallel)
    optimizer = torch.optim.SGD(model.parameters(), lr=regression.LEARNING_RATE)
    losses = []
    for inputs, targets in DataLoader(regression.dataset(dist.get_rank()), regression.BATCH):
        optimizer.zero_grad()
        loss = regression.loss_of(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    regression.tell(FOLDER, regression.report(losses))


# A short path, for Ray makes sockets in it.
with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as own:
    ray.init(num_cpus=regression.WORKERS, include_dashboard=False, log_to_driver=False, _temp_dir=own)
    TorchTrainer(
        train,
        torch_config=TorchConfig(backend=BACKEND),
        scaling_config=ScalingConfig(num_workers=regression.WORKERS, use_gpu=False),
        run_config=RunConfig(storage_path=f"{FOLDER}/out"),
    ).fit()
    ray.shutdown()
