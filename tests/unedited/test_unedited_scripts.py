"""Training scripts as tutorials write them, unedited, by `switchml run`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

# Seven processes load torch: half a minute of one core, which a busy machine makes minutes.
pytestmark = pytest.mark.timeout(300)
SCRIPTS = Path(__file__).parent / "scripts"
SWITCHML = str(Path(sys.executable).with_name("switchml"))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_script_that_names_nccl_trains_over_the_switch_on_the_cpu(tmp_path: Path) -> None:
    words = [SWITCHML, "run", "-n", "2", "--backend-for", "gloo,nccl", "--", str(SCRIPTS / "ddp_nccl.py")]
    done = run(*words, str(tmp_path / "ours.pt"))
    told = [line for line in done.stderr.splitlines() if "the place of the backend" in line]
    assert len(told) == 1
    assert "'nccl'" in told[0]
    assert "chunks summed" in done.stderr
    trained = torch.load(tmp_path / "ours.pt")
    for name, expected in _two_ranks_in_one_process().items():
        torch.testing.assert_close(trained[name], expected, rtol=0, atol=1e-5)


def _two_ranks_in_one_process() -> dict[str, Any]:
    """What ddp_nccl.py trains on two ranks."""
    images, labels = load_digits(return_X_y=True)
    dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    torch.manual_seed(0)
    samplers: list[Any] = [DistributedSampler(dataset, 2, rank) for rank in range(2)]
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for batches in zip(*(DataLoader(dataset, 32, sampler=sampler) for sampler in samplers), strict=True):
            optimizer.zero_grad()
            for x, y in batches:
                (nn.functional.cross_entropy(model(x), y) / 2).backward()
            optimizer.step()
    return model.state_dict()
