"""Training scripts as tutorials write them, unedited, by `switchml run`."""

from __future__ import annotations

import json
import os
import runpy
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

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("preloaded_programs")]
SCRIPTS = Path(__file__).parent / "scripts"
SWITCHML = str(Path(sys.executable).with_name("switchml"))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done


def test_scripts_that_name_nccl_and_gloo_train_over_the_switch_on_the_cpu(tmp_path: Path) -> None:
    names = ("ddp_nccl", "ddp_gloo")
    words = [SWITCHML, "run", "-n", "2", "--backend-for", "gloo,nccl", "--", str(SCRIPTS / "in_turn.py")]
    done = run(*words, str(tmp_path), *names)
    told = [line for line in done.stderr.splitlines() if "the place of the backend" in line]
    assert [line.split("'")[1] for line in told] == ["nccl", "gloo"]
    assert "chunks summed" in done.stderr
    ours, theirs = (torch.load(tmp_path / f"{name}.pt") for name in names)
    for name, expected in _two_ranks_in_one_process().items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=1e-5)
        assert torch.equal(ours[name], theirs[name])


SINGLE = ("plain", "validation", "accumulation", "amp", "handwritten", "gan")
"""Scripts that know nothing of distributed training."""
# By how much parameters may differ, where it is not float32's rounding.
APART = {
    "amp": 0.02,  # a share's gradients are rounded to bfloat16 for themselves
    "gan": 0.5,  # noise is drawn otherwise, as with another seed
    "handwritten": 2e-3,  # attention's biases of keys have no gradient but rounding, of which Adam makes whole steps
}


def test_scripts_of_one_process_train_on_three_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    split, alone = tmp_path / "split", tmp_path / "alone"
    split.mkdir()
    alone.mkdir()
    driver = str(SCRIPTS / "in_turn.py")
    words = [SWITCHML, "run", "-n", "3", "--data-parallel", "--json", str(tmp_path / "account.json")]
    done = run(*words, "--", driver, str(split), *SINGLE)
    steps = json.loads((tmp_path / "account.json").read_text())["steps"]
    assert steps["workers"] == 3
    assert 0 < steps["network"] < steps["seconds"]
    assert 0 < steps["input"] < steps["seconds"]
    assert "A step (of one batch) took" in done.stderr
    monkeypatch.setattr(sys, "argv", [driver, str(alone), *SINGLE])
    runpy.run_path(driver, run_name="__main__")
    printed, expected = done.stdout.splitlines(), capsys.readouterr().out.splitlines()
    assert len(printed) == len(expected)  # by one rank, not by three
    whole = [line for line in expected if "accuracy" in line]  # of validation, which every rank does in full
    assert [line for line in printed if "accuracy" in line] == whole
    assert len(whole) == 4
    logs = [(folder / "validation.pt.run" / "log.csv").read_text() for folder in (split, alone)]
    assert logs[0].count("\n") == logs[1].count("\n") == 3
    for name in SINGLE:
        ours, theirs = (_tensors(torch.load(folder / f"{name}.pt")) for folder in (split, alone))
        assert ours.keys() == theirs.keys()
        for part, value in theirs.items():
            # Attention's biases of keys have no gradient but rounding, of which Adam makes whole steps.
            apart = 0.15 if "in_proj_bias" in part else APART.get(name, 2e-6)
            torch.testing.assert_close(ours[part], value, rtol=0, atol=apart, msg=f"{name} {part}")
    kept, expected_kept = (torch.load(folder / "validation.pt.run" / "best.pt") for folder in (split, alone))
    assert kept["epoch"] == expected_kept["epoch"]
    ours, theirs = _tensors(kept), _tensors(expected_kept)
    assert ours.keys() == theirs.keys()
    for part, value in theirs.items():
        torch.testing.assert_close(ours[part], value, rtol=0, atol=2e-6, msg=part)


def _tensors(saved: Any, name: str = "") -> dict[str, Any]:
    """The tensors of a checkpoint, by the names on the way."""
    if isinstance(saved, torch.Tensor):
        return {name: saved}
    items = saved.items() if isinstance(saved, dict) else ()
    return {
        deeper: tensor for key, each in items for deeper, tensor in _tensors(each, f"{name}.{key}").items()
    }


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
