"""A script that knows nothing of its ranks: shares of batches, gradients, what is refused. tests/unedited has whole scripts.

One rank of one does all of it but splitting, in the test's own process.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from free_port import free_port
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from switchml.errors import UsageError
from switchml.torch_backend.data_parallel.batch_shares import Share, SharedBatches, share_of
from switchml.torch_backend.data_parallel.first_rank_only import FirstRankOnly
from switchml.torch_backend.data_parallel.unedited import UneditedRun

TORCHS_OWN = DataLoader.__iter__, torch.optim.Optimizer.add_param_group


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 11])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_shares_are_a_batch_in_order_and_their_weights_those_of_its_mean(size: int, world_size: int) -> None:
    batch = list(range(100, 100 + size))
    parts = [share_of(batch, rank, world_size) for rank in range(world_size)]
    assert [index for part, share in parts for index in part[: share.mine]] == batch
    assert all(part for part, _ in parts)  # a model takes no empty batch
    values = torch.randn(size, dtype=torch.float64)
    means = [
        values[[i - 100 for i in part]].mean() * share.weight(world_size) / world_size
        for part, share in parts
    ]
    torch.testing.assert_close(torch.stack(means).sum(), values.mean())


def test_a_share_that_does_not_count_weighs_nothing() -> None:
    assert share_of([7, 8], 2, 3) == ([7], Share(0, 2))
    assert Share(0, 2).weight(3) == 0


def test_an_epoch_is_drawn_at_once_and_told_to_all() -> None:
    checksums: list[int] = []
    whole = [[3, 1, 2], [5, 4], [0]]
    ranks = [SharedBatches(whole, rank, 2, checksums.append) for rank in range(2)]
    assert [list(each) for each in ranks] == [whole, whole]
    for each in ranks:
        each.split = True
    assert [list(each) for each in ranks] == [[[3, 1], [5], [0]], [[2], [4], [0]]]
    assert [list(each.shares) for each in ranks] == [
        [Share(2, 3), Share(1, 2), Share(1, 1)],
        [Share(1, 3), Share(1, 2), Share(0, 1)],
    ]
    assert checksums[0] == checksums[1]
    assert len(ranks[0]) == 3


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[UneditedRun]:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    made = UneditedRun(0, 1, every_rank=True)
    undo = made.install()
    yield made
    undo()
    if dist.is_initialized():
        dist.destroy_process_group()


def model_and_data() -> tuple[nn.Module, torch.optim.Optimizer, DataLoader[Any]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    loader: Any = DataLoader(
        TensorDataset(torch.randn(10, 3), torch.arange(10) % 2), batch_size=4, shuffle=True
    )
    return model, torch.optim.SGD(model.parameters(), lr=0.1), loader


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any) -> None:
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def test_a_loop_ends_the_same_and_everything_is_put_back(run: UneditedRun) -> None:
    ends = []
    for _ in range(2):
        model, optimizer, loader = model_and_data()
        for _ in range(3):
            train(model, optimizer, loader)
        ends.append(model.state_dict())
        assert dist.is_initialized() == (len(ends) == 1)
        if len(ends) == 1:
            assert dist.get_backend() == "switchml"
            dist.destroy_process_group()
            run._undo.close()
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    assert (DataLoader.__iter__, torch.optim.Optimizer.add_param_group) == TORCHS_OWN
    assert not _global_optimizer_pre_hooks


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("how", ["eval", "no_grad", "inference", "no optimizer"])
def test_a_loop_that_does_not_train_is_left_whole(how: str) -> None:
    model, optimizer, loader = model_and_data()
    if how == "no optimizer":
        del optimizer
    contexts: dict[str, Callable[[], Any]] = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
    model.train(how != "eval")
    with contexts.get(how, torch.enable_grad)():
        assert sum(len(y) for _, y in loader) == 10
    assert not dist.is_initialized()


@pytest.mark.usefixtures("run")
def test_a_model_trained_before_does_not_make_a_test_of_another_a_training() -> None:
    earlier, its_optimizer, loader = model_and_data()
    train(earlier, its_optimizer, loader)
    model, optimizer, loader = model_and_data()
    train(model, optimizer, loader)
    model.eval()
    assert earlier.training
    assert sum(len(y) for _, y in loader) == 10  # refused, were it split


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(torch.randn(8, 3))


class _Endless:
    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield [0, 1]


_DATA = TensorDataset(torch.zeros(8, 3))


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("loader", "says"),
    [
        (lambda: DataLoader(_Stream(), 4), "IterableDataset"),
        (lambda: DataLoader(_DATA, batch_size=None), "batch_size=None"),
        (lambda: DataLoader(_DATA, batch_sampler=_Endless()), "no length"),  # type: ignore[arg-type]
        (lambda: DataLoader(_DATA, 4, in_order=False), "in_order"),
    ],
)
def test_a_loader_that_cannot_be_split(loader: Callable[[], Any], says: str) -> None:
    _model, _optimizer, _ = model_and_data()
    with pytest.raises(UsageError, match=says):
        iter(loader())


@pytest.mark.usefixtures("run")
def test_lbfgs_is_refused() -> None:
    with pytest.raises(UsageError, match="LBFGS"):
        torch.optim.LBFGS([nn.Parameter(torch.zeros(1))])


@pytest.mark.usefixtures("run")
def test_a_training_without_a_loader_is_refused() -> None:
    model, optimizer, _ = model_and_data()
    model(torch.randn(4, 3)).sum().backward()
    with pytest.raises(UsageError, match="no batches to split"):
        optimizer.step()


@pytest.mark.usefixtures("run")
def test_a_split_loop_in_which_nothing_is_trained_is_refused_before_its_sum_is_told() -> None:
    _model, _optimizer, loader = model_and_data()
    with pytest.raises(UsageError, match="nothing was trained"):
        sum(len(y) for _, y in loader)


@pytest.mark.usefixtures("run")
def test_a_gradient_that_did_not_come_from_backward_is_refused() -> None:
    model, optimizer, loader = model_and_data()
    parameters = list(model.parameters())
    x, y = next(iter(loader))
    loss = nn.functional.cross_entropy(model(x), y)
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    with pytest.raises(UsageError, match="cannot tell where the gradient"):
        optimizer.step()


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@pytest.mark.usefixtures("run")
def test_gradients_of_gradients_are_refused() -> None:
    model, _optimizer, loader = model_and_data()
    x, y = next(iter(loader))
    with pytest.raises(UsageError, match="create_graph"):
        nn.functional.cross_entropy(model(x), y).backward(create_graph=True)


@pytest.mark.usefixtures("run")
def test_a_script_that_is_distributed_already_is_refused() -> None:
    _model, _optimizer, loader = model_and_data()
    dist.init_process_group("switchml")
    with pytest.raises(UsageError, match="leave --data-parallel out"):
        iter(loader)


def test_batches_taken_ahead_may_have_equal_shares_only(run: UneditedRun) -> None:
    fetched, means = run._fetched, run._means
    fetched._world_size = 4
    for _ in range(3):
        fetched.one(Share(2, 8))
    means.backwards += 1
    fetched.one(Share(3, 12))
    assert means.weight == 1
    with pytest.raises(UsageError, match="drop_last=True"):
        fetched.one(Share(2, 6))


def test_one_batch_after_the_other_may_have_any_size(run: UneditedRun) -> None:
    fetched, means = run._fetched, run._means
    fetched._world_size = 4
    for share, weight in ((Share(2, 8), 1), (Share(2, 6), 4 / 3), (Share(0, 3), 0)):
        fetched.one(share)
        assert means.weight == pytest.approx(weight)
        means.backwards += 1
    fetched.all(0)
    assert means.weight == 1


def test_a_share_stays_over_a_whole_loop_until_its_backward(run: UneditedRun) -> None:
    fetched, means = run._fetched, run._means
    fetched._world_size = 4
    fetched.one(Share(2, 6))
    fetched.whole()
    assert means.weight == pytest.approx(4 / 3)
    means.backwards += 1
    fetched.whole()
    assert means.weight == 1


def test_that_a_training_is_not_split_is_said_once(
    run: UneditedRun, capfd: pytest.CaptureFixture[str]
) -> None:
    model, optimizer, loader = model_and_data()
    train(model, optimizer, loader)
    for _ in range(2):
        model.eval()
        train(model, optimizer, loader)
    assert capfd.readouterr().err.count("each worker does all of it") == 1


def test_gradients_count_by_their_share_and_nan_of_none_does_not(run: UneditedRun) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    run._means.add([parameter])
    run._begin()
    run._means.weight = 0.5
    (parameter * torch.tensor([2.0, 4.0])).sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [1, 2]
    run._means.weight = 0
    (parameter * float("nan")).sum().backward()
    assert parameter.grad.tolist() == [1, 2]


def test_steps_are_timed(run: UneditedRun, tmp_path: Path) -> None:
    run._folder = str(tmp_path)
    model, optimizer, loader = model_and_data()
    for _ in range(2):
        train(model, optimizer, loader)
    run._end()
    told = json.loads((tmp_path / "0.json").read_text())
    assert told["batches"] == 6
    assert 0 < told["input"] < told["seconds"]
    assert 0 < told["network"] < told["seconds"]
    assert not dist.is_initialized()


def test_what_was_not_foreseen_comes_after(run: UneditedRun) -> None:
    """As a generator's and a discriminator's backwards follow each other."""
    one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))
    run._means.add([one, two])
    run._begin()
    for _ in range(3):
        for parameters in ((one,), (two,), (one, two)):
            before = [None if each.grad is None else each.grad.clone() for each in (one, two)]
            torch.stack([each.double().sum() * 3 for each in parameters]).sum().backward()
            for each, old in zip((one, two), before, strict=True):
                added = 3 if any(each is other for other in parameters) else 0
                assert (0 if each.grad is None else each.grad.sum()) == (
                    0 if old is None else old.sum()
                ) + 2 * added


def test_ranks_but_the_first_leave_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    existing = tmp_path / "there"
    existing.write_text("kept")

    def keep(name: str, rank: int) -> None:
        with monkeypatch.context() as patch:
            FirstRankOnly(rank).keep_files(patch.setattr)
            (tmp_path / f"{name}.txt").write_text("x")
            with open(tmp_path / f"{name}.csv", "a") as file:
                file.write("x")
            os.makedirs(tmp_path / name / "below", exist_ok=True)
            torch.save([1], tmp_path / f"{name}.pt")
            os.replace(existing, tmp_path / f"{name}.moved")
            buffer = io.BytesIO()
            torch.save([1], buffer)
            assert torch.load(io.BytesIO(buffer.getvalue())) == [1]
            with open(__file__) as file:
                assert file.read(3) == '"""'
            with tempfile.TemporaryDirectory() as folder:
                assert Path(folder).is_dir()
            assert not Path(folder).exists()

    keep("second", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert existing.read_text() == "kept"
    keep("first", 0)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("first", "first.txt", "first.csv", "first.pt", "first.moved"),
    }
