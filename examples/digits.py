"""Train on scikit-learn's handwritten digits with DistributedDataParallel, on CPU.

    switchml run -n 4 -- examples/digits.py --backend switchml
    torchrun --nproc-per-node 4 examples/digits.py --backend gloo
    torchrun --nproc-per-node 4 examples/digits.py --backend gloo --hook int8

An installed backend is found by its name, so nothing of switchml has to be imported. It is for --hook: then the process
group keeps its backend, and the gradients alone are summed by the switch, as float32 or in a shorter form.

Two runs with the same arguments end with bitwise the same parameters, whatever the timing and whatever the network lost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from switchml.torch_backend.hooks import SwitchState

BATCH = 24  # images a rank and step


@dataclass(frozen=True)
class Digits:
    """Images float32 (N, 1, 8, 8) in 0..1 and labels int64 (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Outcome:
    """One trained model. `digest` is the SHA-256 of its parameters, the same on every rank."""

    model: str
    backend: str
    hook: str
    world_size: int
    epochs: int
    seed: int
    accuracy: float
    seconds: float
    hook_bytes: int  # sent by rank 0 for gradients; 0 without a hook
    digest: str


def digits(seed: int) -> Digits:
    """The data set, three quarters for training and one for the test, the same on every rank."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return Digits(
        train_images=train_images.float().div(16).reshape(-1, 1, 8, 8),
        train_labels=train_labels.long(),
        test_images=test_images.float().div(16).reshape(-1, 1, 8, 8),
        test_labels=test_labels.long(),
    )


def logistic() -> nn.Module:
    """A linear model: 650 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def conv() -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class Residual(nn.Module):
    """Two convolutions with batch norm, and what came in added to what they give."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, images: Tensor) -> Tensor:
        """images: (batch, channels, height, width), as what is returned."""
        inside = torch.relu(self.first_norm(self.first(images)))
        added: Tensor = torch.relu(images + self.second_norm(self.second(inside)))
        return added


def resnet() -> nn.Module:
    """A residual network for images of 8 x 8 (He et al., CVPR 2016)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Residual(32),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        Residual(64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


MODELS = {"logistic": logistic, "conv": conv, "resnet": resnet}
BOTH = ("logistic", "conv")


def batches(count: int, rank: int, world_size: int, seed: int) -> list[Tensor]:
    """Index batches of one epoch for one rank: equal in number and size on every rank."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    shard = order[: count // world_size * world_size][rank::world_size]
    return list(shard.split(BATCH))


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, data: Digits, seed: int) -> float:
    """One pass over the training images; returns the mean loss over all ranks."""
    total = torch.zeros(())
    steps = batches(len(data.train_labels), dist.get_rank(), dist.get_world_size(), seed)
    for index in steps:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data.train_images[index]), data.train_labels[index])
        loss.backward()
        optimizer.step()
        total += loss.detach()
    dist.all_reduce(total)
    return total.item() / len(steps) / dist.get_world_size()


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    """Share of the test images that the model names rightly."""
    model.eval()  # what is trained no more
    right = model(data.test_images).argmax(1) == data.test_labels
    return float(right.float().mean())


def common_digest(model: nn.Module) -> str:
    """SHA-256 of the parameters; exits with an error if the ranks' parameters differ in one bit."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    mine = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
    everyones = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, mine)
    differing = [rank for rank, other in enumerate(everyones) if not torch.equal(other, everyones[0])]
    if differing:
        sys.exit(f"parameters differ from rank 0's on ranks {differing}")
    return digest.hexdigest()


def register_hook(model: DistributedDataParallel, wire: str, seed: int) -> SwitchState:
    """Have the model's gradients summed by a switch, in the form `wire`."""
    from switchml.torch_backend.hooks import SwitchState, switchml_hook

    state = SwitchState(wire=wire, seed=seed)
    model.register_comm_hook(state, switchml_hook)
    return state


def train(name: str, data: Digits, epochs: int, seed: int, hook: str) -> Outcome:
    """Train one model over all ranks and test it."""
    torch.manual_seed(seed)
    model = DistributedDataParallel(MODELS[name]())
    state = None if hook == "none" else register_hook(model, hook, seed)
    peak = 0.3 if name == "logistic" else 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=peak, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    begin = time.perf_counter()
    for epoch in range(epochs):
        loss = train_epoch(model, optimizer, data, seed=seed * 1000 + epoch)
        schedule.step()
        say(f"{name:8}  epoch {epoch + 1:2}/{epochs}  loss {loss:.4f}")
    seconds = time.perf_counter() - begin
    hook_bytes = 0
    if state is not None:
        hook_bytes = state.counters()["bytes_sent"]
        state.close()
    outcome = Outcome(
        model=name,
        backend=dist.get_backend(),
        hook=hook,
        world_size=dist.get_world_size(),
        epochs=epochs,
        seed=seed,
        accuracy=accuracy(model.module, data),
        seconds=seconds,
        hook_bytes=hook_bytes,
        digest=common_digest(model),
    )
    by_hook = f", gradients by the hook as {hook}: {hook_bytes / 1e6:.1f} MB a worker" if state else ""
    say(
        f"{name:8}  test accuracy {outcome.accuracy:.2%} after {seconds:.1f} s"
        f"  ({outcome.world_size} workers over {outcome.backend}{by_hook})\n"
        f"{name:8}  parameters bitwise equal on all ranks, SHA-256 {outcome.digest}"
    )
    return outcome


def say(line: str) -> None:
    """Print a line, on rank 0 only."""
    if dist.get_rank() == 0:
        print(line, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="switchml", help="switchml, gloo, or any other for CPU tensors")
    parser.add_argument("--hook", default="none", choices=["none", "float32", "int16", "int8"])
    parser.add_argument("--model", default="both", choices=[*MODELS, "both"])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there")
    return parser.parse_args()


def main() -> None:
    """One rank of the training."""
    args = arguments()
    if "RANK" not in os.environ:
        sys.exit("start me through a launcher: switchml run -n 4 -- examples/digits.py, or torchrun")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dist.init_process_group(args.backend)
    try:
        data = digits(args.seed)
        names = BOTH if args.model == "both" else [args.model]
        outcomes = [train(name, data, args.epochs, args.seed, args.hook) for name in names]
        if args.json and dist.get_rank() == 0:
            args.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2) + "\n")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
