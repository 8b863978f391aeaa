"""Tensors on a GPU, over the stand-in for its streams: queued without a wait, and NaN with an error if the network fails."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is in the extra `torch`")

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import AllgatherOptions, ReduceScatterOptions

from switchml.errors import CollectiveTimeoutError, UsageError
from switchml.torch_backend.cuda import reductions, staged
from switchml.torch_backend.cuda.device_collectives import DeviceCollectives, DeviceWork
from switchml.torch_backend.gloo_group import GlooGroup
from switchml.torch_backend.tensors import on_device

COUNTS = [1000, 3, 257, 5000]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def gradient(rank: int, bucket: int, step: int, dtype: Any = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(1000 * rank + 10 * bucket + step)
    return torch.randn(COUNTS[bucket], generator=generator).to(dtype)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "CHUNK", 4 * staged.BLOCK)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("average", [True, False])
def test_reductions(ranks: Any, dtype: Any, average: bool) -> None:
    """Many in flight, and in one step a block of each that goes exactly."""

    def body(averager: Any, rank: int) -> list[Any]:
        flights = []
        for step in range(3):
            for bucket in range(len(COUNTS)):
                tensor = gradient(rank, bucket, step, dtype)
                if step == 1 and rank == 1:
                    tensor[0] = torch.inf
                flights.append(averager.reduce_on_device(tensor, average=average, value=tensor))
        return [flight.future.wait() for flight in flights]

    results = ranks.run(3, "float32", body)
    for number, found in enumerate(zip(*results, strict=True)):
        step, bucket = divmod(number, len(COUNTS))
        assert all(torch.equal(found[0], other) for other in found)
        exact = sum(gradient(rank, bucket, step, dtype).double() for rank in range(3))
        exact = exact / 3 if average else exact
        if step == 1:
            exact[0] = torch.inf
        bound = 1e-6 if dtype is torch.float32 else 0.02
        torch.testing.assert_close(found[0].double(), exact, atol=bound, rtol=bound)


def test_the_caller_does_not_wait_for_the_network(ranks: Any) -> None:
    """Rank 0 has queued everything before rank 1 begins."""
    queued = threading.Event()

    def body(averager: Any, rank: int) -> list[Any]:
        if rank == 1:
            assert queued.wait(20)
        tensors = [gradient(rank, bucket, 0) for bucket in range(len(COUNTS))]
        flights = [averager.reduce_on_device(tensor, average=False, value=tensor) for tensor in tensors]
        if rank == 0:
            assert not any(flight.ended.is_set() or flight.future.done() for flight in flights)
            queued.set()
        return [flight.future.wait() for flight in flights]

    for bucket, (mine, other) in enumerate(zip(*ranks.run(2, "float32", body), strict=True)):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, gradient(0, bucket, 0) + gradient(1, bucket, 0), atol=1e-5, rtol=0)


def test_tensors_of_any_layout(ranks: Any) -> None:
    def body(averager: Any, rank: int) -> Any:
        tensor = torch.arange(24.0).view(4, 6).t()[1:]
        averager.reduce_on_device(tensor, average=False, value=[tensor]).future.wait()
        return tensor

    for found in ranks.run(2, "float32", body):
        torch.testing.assert_close(found, 2 * torch.arange(24.0).view(4, 6).t()[1:])


@pytest.mark.parametrize("sizes", [(1000, 2000), (256, 5000)])
def test_a_failure_becomes_nan_and_is_raised_by_the_next_call(ranks: Any, sizes: tuple[int, int]) -> None:
    """Ranks with tensors of different sizes."""

    def body(averager: Any, rank: int) -> Any:
        tensor = torch.ones(sizes[rank])
        flight = averager.reduce_on_device(tensor, average=False, value=tensor)
        flight.future.wait()
        assert flight.ended.wait(20)
        assert "ranks disagree" in str(flight.error)
        with pytest.raises(RuntimeError, match="ranks disagree"):
            averager.reduce_on_device(tensor, average=False, value=tensor)
        return tensor

    assert all(found.isnan().all() for found in ranks.run(2, "float32", body))


def test_a_failure_after_the_exponents_becomes_nan_where_nothing_has_come(ranks: Any) -> None:
    def body(averager: Any, rank: int) -> Any:
        submit, calls = averager._jobs.reduce_values, []

        def fail_second(array: Any, op: str) -> Any:
            calls.append(op)
            if len(calls) == 2:
                raise RuntimeError("the second chunk is lost")
            return submit(array, op)

        averager._jobs.reduce_values = fail_second
        tensor = torch.ones(12 * staged.BLOCK)
        flight = averager.reduce_on_device(tensor, average=False, value=tensor)
        flight.future.wait()
        assert flight.ended.wait(20)
        assert "second chunk" in str(flight.error)
        return tensor

    for found in ranks.run(2, "float32", body):
        assert found.isnan().all()


def test_rooms_are_used_again_and_not_kept_for_ever(ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductions, "IDLE_ROOMS", 3)

    def body(averager: Any, rank: int) -> tuple[int, bool]:
        def reduce(count: int) -> None:
            tensor = torch.ones(count)
            flight = averager.reduce_on_device(tensor, average=False, value=tensor)
            flight.future.wait()
            assert flight.ended.wait(20)
            deadline = time.monotonic() + 20
            while not any(room.count == count for _, room in list(averager._reductions._rooms.values())):
                assert time.monotonic() < deadline
                time.sleep(0.001)

        reduce(700)
        before = set(averager._reductions._rooms)
        reduce(700)
        again = set(averager._reductions._rooms) == before
        for count in (1, 2, 3, 4, 5):
            reduce(count)
        return len(averager._reductions._rooms), again

    assert ranks.run(2, "float32", body) == [(3, True)] * 2


def test_short_wires_are_refused(ranks: Any) -> None:
    def body(averager: Any, rank: int) -> None:
        with pytest.raises(UsageError, match="float32"):
            averager.reduce_on_device(torch.ones(3), average=True, value=None)

    ranks.run(1, "int8", body)


def collectives(averager: Any, rank: int, world_size: int, store: Any) -> DeviceCollectives:
    """What does not go quantized goes over gloo here."""
    group = GlooGroup(dist.PrefixStore("host", store), rank, world_size, timedelta(seconds=20))
    return DeviceCollectives(averager._reductions, group.group)


def options(kind: Any, **fields: Any) -> Any:
    made = kind()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_collectives_of_a_group(ranks: Any) -> None:
    """Each kind of method, all in flight at once; a receive is called before the other rank's send."""
    store = dist.HashStore()

    def body(averager: Any, rank: int) -> dict[str, Any]:
        calls = collectives(averager, rank, 2, store)
        total = dist.AllreduceOptions
        found = {
            "float": torch.full((600,), rank + 0.5),
            "int": torch.full((5,), rank + 1),
            "double": torch.full((2, 3), rank + 0.25, dtype=torch.float64).t(),
            "max": torch.tensor([float(rank), -float(rank)]),
            "root": torch.full((4,), float(rank)),
            "gathered": [torch.zeros(2), torch.zeros(2)],
            "scattered": torch.zeros(3),
            "received": torch.zeros(2),
        }
        sent, part = torch.full((2,), 7.0 + rank), torch.full((2,), rank + 1.0)
        works = [
            calls.call("recv", ([found["received"]], 1 - rank, 5), {}),
            calls.call("allreduce", ([found["float"]], options(total, reduceOp=dist.ReduceOp.AVG)), {}),
            calls.call("allreduce", ([found["int"]], options(total, reduceOp=dist.ReduceOp.SUM)), {}),
            calls.call("allreduce", ([found["double"]], options(total, reduceOp=dist.ReduceOp.SUM)), {}),
            calls.call("allreduce", ([found["max"]], options(total, reduceOp=dist.ReduceOp.MAX)), {}),
            calls.call("broadcast", ([found["root"]], options(dist.BroadcastOptions, rootRank=1)), {}),
            calls.call("allgather", ([found["gathered"]], [part], AllgatherOptions()), {}),
            calls.call(
                "reduce_scatter",
                ([found["scattered"]], [[torch.ones(3), torch.full((3,), 2.0)]], ReduceScatterOptions()),
                {},
            ),
            calls.call("send", ([sent], 1 - rank, 5), {}),
        ]
        for work in works:
            assert isinstance(work, DeviceWork)
            assert work.wait(timedelta(seconds=20))
            assert work.is_success()
            assert work.exception() is None
        assert works[1].get_future().wait()[0] is works[1].result()[0]
        return found

    for rank, found in enumerate(ranks.run(2, "float32", body)):
        assert torch.equal(found["float"], torch.full((600,), 1.0))
        assert torch.equal(found["int"], torch.full((5,), 3))
        assert torch.equal(found["double"], torch.full((3, 2), 1.5, dtype=torch.float64))
        assert found["max"].tolist() == [1.0, 0.0]
        assert torch.equal(found["root"], torch.ones(4))
        assert [part.tolist() for part in found["gathered"]] == [[1.0, 1.0], [2.0, 2.0]]
        assert found["scattered"].tolist() == [2.0 * (rank + 1)] * 3
        assert found["received"].tolist() == [8.0 - rank] * 2


def test_a_collective_that_fails_on_the_host(ranks: Any) -> None:
    store = dist.HashStore()

    def body(averager: Any, rank: int) -> None:
        calls = collectives(averager, rank, 1, store)
        tensor = torch.ones(3)
        work = calls.call("broadcast", ([tensor], options(dist.BroadcastOptions, rootRank=5)), {})
        work.get_future().wait()
        with pytest.raises(RuntimeError, match="root"):
            work.wait(timedelta(seconds=20))
        assert not work.is_success()
        assert tensor.isnan().all()
        with pytest.raises(RuntimeError, match="root"):
            calls.call("broadcast", ([tensor], dist.BroadcastOptions()), {})

    ranks.run(1, "float32", body)


def test_a_wait_with_a_timeout(ranks: Any) -> None:
    waited = threading.Event()

    def body(averager: Any, rank: int) -> Any:
        if rank == 1:
            assert waited.wait(20)
        tensor = torch.ones(10)
        flight = averager.reduce_on_device(tensor, average=False, value=[tensor])
        work = DeviceWork("allreduce", [tensor], flight)
        if rank == 0:
            with pytest.raises(CollectiveTimeoutError, match=r"0\.05 s"):
                work.wait(timedelta(seconds=0.05))
            waited.set()
        work.wait()
        return tensor

    assert all(torch.equal(found, torch.full((10,), 2.0)) for found in ranks.run(2, "float32", body))


def test_what_is_a_call_with_tensors_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    class OnDevice(torch.Tensor):
        is_cuda = True

    there = torch.ones(2).as_subclass(OnDevice)
    assert on_device(([[there]], None))
    assert on_device((torch.ones(1), [there]))
    assert not on_device(([torch.ones(2)], None))
