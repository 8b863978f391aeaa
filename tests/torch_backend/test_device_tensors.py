"""A group's collectives of tensors that say they are on a GPU, over the stand-in for its streams."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is in the extra `torch`")

import torch
from host_stream import HostStream

from switchml.errors import WorkerClosedError
from switchml.torch_backend.cuda import device_collectives
from switchml.torch_backend.cuda.device_collectives import DeviceWork
from switchml.torch_backend.cuda.staged import Streams


class OnDevice(torch.Tensor):
    is_cuda = True


def there(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(OnDevice)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[HostStream] = []

    def open_streams(device: torch.device, workers: int) -> Streams:
        streams = Streams(HostStream(), HostStream())
        made.extend([streams.down, streams.up])  # type: ignore[list-item]
        return streams

    reductions = functools.partial(device_collectives.DeviceReductions, open_streams=open_streams)
    monkeypatch.setattr(device_collectives, "DeviceReductions", reductions)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    yield
    for stream in made:
        stream.close()


def test_they_go_their_own_way_and_others_as_before(ranks: Any) -> None:
    def body(group: Any, rank: int) -> dict[str, Any]:
        found = {
            "sum": there(torch.full((700,), rank + 1.0)),
            "whole": there(torch.full((3,), rank + 1)),
            "from 1": there(torch.full((2,), float(rank))),
            "all": there(torch.zeros(2, dtype=torch.int64)),
            "cpu": torch.full((4,), rank + 1.0),
        }
        works = [
            group.allreduce([found["sum"]]),
            group.allreduce([found["cpu"]]),
            group.allreduce([found["whole"]]),
            group.broadcast([found["from 1"]], 1),
            group.all_gather_single(found["all"], there(torch.tensor([rank]))),
        ]
        assert [isinstance(work, DeviceWork) for work in works] == [True, False, True, True, True]
        for work in works:
            assert work.wait()
        group.barrier().wait()
        return found

    for found in ranks.run(2, body):
        assert found["sum"].tolist() == [3.0] * 700
        assert found["whole"].tolist() == [3] * 3
        assert found["from 1"].tolist() == [1.0] * 2
        assert found["all"].tolist() == [0, 1]
        assert found["cpu"].tolist() == [3.0] * 4


def test_send_and_receive(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[float]:
        if rank == 0:
            group.send([there(torch.full((3,), 9.0))], 1, 0).wait()
            return [9.0] * 3
        tensor = there(torch.zeros(3))
        group.recv([tensor], 0, 0).wait()
        return list(tensor.tolist())

    assert ranks.run(2, body) == [[9.0] * 3] * 2


def test_a_group_that_was_shut_down_ends_its_streams_work(ranks: Any) -> None:
    def body(group: Any, rank: int) -> None:
        group.allreduce([there(torch.ones(5))]).wait()
        group.shutdown()
        with pytest.raises(WorkerClosedError):
            group.allreduce([there(torch.ones(5))])

    ranks.run(2, body)
