"""Every rank runs every check; prints {check: "" or what went wrong} as its last line.

The reference is gloo on the same inputs, in groups of the same program.
"""

import json
import time
import traceback
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch.distributed import ReduceOp
from torch.distributed.device_mesh import init_device_mesh

CHECKS = {}
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check(function):
    CHECKS[function.__name__] = function
    return function


def sample(dtype, *shape, spread=8):
    """Values that differ over ranks."""
    generator = torch.Generator().manual_seed(100 * RANK + spread)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) > 0.5
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, spread, shape, generator=generator).to(dtype)


def by_gloo(tensor, op):
    expected = tensor.detach().clone()
    dist.all_reduce(expected, op, group=GLOO)
    return expected


def same_on_all_ranks(tensor):
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    everyone = [torch.empty_like(raw) for _ in range(WORLD)]
    dist.all_gather(everyone, raw, group=GLOO)
    assert all(torch.equal(one, raw) for one in everyone), "ranks differ bitwise"


@check
def sum_of_floats():
    for dtype in FLOATS:
        tensor = sample(dtype, 1031)
        wide = tensor.double()
        dist.all_reduce(wide, group=GLOO)
        dist.all_reduce(tensor)
        eps = torch.finfo(dtype).eps
        # Block floating point rounds against the largest of the block; the narrow types once more at the end.
        bound = max(2.0**-27, eps) * WORLD * wide.abs().max()
        assert (tensor.double() - wide).abs().max() <= bound, dtype
        same_on_all_ranks(tensor)


@check
def sums_on_a_narrow_wire():
    from switchml.torch_backend import Options

    count = 8192 * WORLD
    group = dist.new_group(pg_options=Options(wire="int8"))
    for dtype in (torch.float32, torch.bfloat16):
        values = sample(dtype, count)
        exact = by_gloo(values.double(), ReduceOp.SUM)
        # Of values below 2^3, one unit a rank and what the switch rounds; bfloat16 has 8 bits itself.
        bound = 2 * WORLD * 2.0**-4 + (dtype is torch.bfloat16) * 2.0**-8 * exact.abs().max()
        total = values.clone()
        dist.all_reduce(total, group=group)
        assert 0 < (total.double() - exact).abs().max() <= bound, dtype
        same_on_all_ranks(total)
        part = torch.empty(count // WORLD, dtype=dtype)
        dist.reduce_scatter_single(part, values, group=group)
        assert torch.equal(part, total[RANK * part.numel() : (RANK + 1) * part.numel()]), dtype
        root = values.clone()
        dist.reduce(root, 0, group=group)
        assert RANK != 0 or torch.equal(root, total), dtype
    counters = group.switch_counters()
    sent = counters["bytes_sent"] * (1 - counters["retransmissions"] / counters["packets_sent"])
    assert sent < 6 * count * 1.2 + 20_000


@check
def sum_of_integers():
    for dtype in INTEGERS:
        tensor = sample(dtype, 777)
        expected = by_gloo(tensor.long(), ReduceOp.SUM).to(dtype)  # gloo has no int16
        dist.all_reduce(tensor)
        assert torch.equal(tensor, expected), dtype


@check
def integer_sum_wraps_around():
    tensor = torch.full((5,), 2**31 - 1, dtype=torch.int32)
    expected = by_gloo(tensor, ReduceOp.SUM)
    dist.all_reduce(tensor)
    assert torch.equal(tensor, expected)


@check
def exact_operations():
    for op in (ReduceOp.MIN, ReduceOp.MAX, ReduceOp.PRODUCT):
        for dtype in (torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8):
            tensor = sample(dtype, 130, spread=5)
            everyone = [torch.empty_like(tensor) for _ in range(WORLD)]
            dist.all_gather(everyone, tensor, group=GLOO)
            stacked = torch.stack(everyone)
            if op == ReduceOp.PRODUCT:
                expected = stacked[0].clone()
                for one in stacked[1:]:
                    expected *= one
            else:
                expected = stacked.amin(0) if op == ReduceOp.MIN else stacked.amax(0)
            dist.all_reduce(tensor, op)
            assert torch.equal(tensor, expected), (op, dtype)


@check
def bitwise_operations():
    for op in (ReduceOp.BAND, ReduceOp.BOR, ReduceOp.BXOR):
        tensor = sample(torch.int32, 65, spread=1 << 20)
        expected = by_gloo(tensor, op)
        dist.all_reduce(tensor, op)
        assert torch.equal(tensor, expected), op


@check
def booleans():
    tensor = sample(torch.bool, 50)
    everyone = [torch.empty_like(tensor) for _ in range(WORLD)]
    dist.all_gather(everyone, tensor, group=GLOO)
    low = tensor.clone()
    dist.all_reduce(tensor, ReduceOp.MAX)
    dist.all_reduce(low, ReduceOp.MIN)
    assert torch.equal(tensor, torch.stack(everyone).any(0))
    assert torch.equal(low, torch.stack(everyone).all(0))


@check
def average():
    tensor = torch.full((9,), float(RANK))
    dist.all_reduce(tensor, ReduceOp.AVG)
    assert torch.allclose(tensor, torch.full((9,), (WORLD - 1) / 2)), tensor


@check
def premultiplied_sum_is_refused():
    with pytest.raises(ValueError, match="PREMUL_SUM"):
        dist.all_reduce(torch.ones(2), dist._make_nccl_premul_sum(2.0))


@check
def complex_numbers():
    tensor = torch.complex(torch.full((3,), float(RANK)), torch.ones(3))
    dist.all_reduce(tensor)
    assert torch.allclose(
        tensor, torch.complex(torch.full((3,), WORLD * (WORLD - 1) / 2), torch.full((3,), float(WORLD)))
    )


@check
def odd_layouts():
    total = WORLD * (WORLD + 1) / 2
    transposed = torch.full((4, 6), RANK + 1.0).t()
    dist.all_reduce(transposed)
    assert torch.equal(transposed, torch.full((6, 4), total))
    every_second = torch.full((10,), RANK + 1.0)
    dist.all_reduce(every_second[::2])
    assert torch.equal(every_second[::2], torch.full((5,), total))
    assert torch.equal(every_second[1::2], torch.full((5,), RANK + 1.0))
    scalar = torch.tensor(RANK + 1.0)
    dist.all_reduce(scalar)
    assert scalar.item() == total
    empty = torch.empty(0)
    dist.all_reduce(empty)
    assert empty.numel() == 0


@check
def gradients_and_inference():
    total = WORLD * (WORLD + 1) / 2
    leaf = torch.full((4,), RANK + 1.0, requires_grad=True)
    dist.all_reduce(leaf)
    assert leaf.requires_grad
    assert torch.equal(leaf.detach(), torch.full((4,), total))
    with torch.inference_mode():
        inside = torch.full((3, 3), RANK + 1.0)
        dist.all_reduce(inside)
        outside = torch.full((3, 3), RANK + 1.0)
    dist.all_reduce(outside.t())
    assert inside[0, 0] == outside[0, 0] == total


@check
def not_a_number_spreads():
    tensor = torch.ones(300)
    if RANK == 0:
        tensor[7] = float("nan")
        tensor[8] = float("inf")
    dist.all_reduce(tensor)
    assert torch.isnan(tensor[7])
    assert torch.isinf(tensor[8])
    assert tensor[9] == WORLD


@check
def asynchronous():
    tensors = [torch.full((n,), RANK + 1.0) for n in (1, 1000, 50000, 3)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    called = []
    chained = [
        work.get_future().then(lambda done: called.append(done.value()[0].sum().item())) for work in works
    ]
    for work in reversed(works):
        assert work.wait()
        assert work.is_completed()
        assert work.is_success()
        assert work.exception() is None
    torch.futures.wait_all(chained)
    total = WORLD * (WORLD + 1) / 2
    assert all(torch.equal(tensor, torch.full_like(tensor, total)) for tensor in tensors)
    assert sorted(called) == sorted(total * n for n in (1, 1000, 50000, 3))


@check
def a_dropped_handle_still_arrives():
    tensor = torch.full((6, 5), RANK + 1.0).t()
    dist.all_reduce(tensor, async_op=True)
    dist.barrier()
    # By now it is over on the wire; the copy into place, on another thread, may need a moment more.
    expected = torch.full((5, 6), WORLD * (WORLD + 1) / 2)
    deadline = time.monotonic() + 10
    while not torch.equal(tensor, expected):
        assert time.monotonic() < deadline, tensor
        time.sleep(0.01)


@check
def nested_wait_in_a_callback():
    def inner(done):
        value = done.value()[0].clone()
        dist.all_reduce(value)
        return value

    work = dist.all_reduce(torch.ones(3), async_op=True)
    assert torch.equal(work.get_future().then(inner).wait(), torch.full((3,), float(WORLD * WORLD)))


@check
def coalesced():
    tensors = [torch.full((n,), RANK + 1.0) for n in (3, 40, 500)]
    with dist._coalescing_manager():
        for tensor in tensors:
            dist.all_reduce(tensor)
    assert all((tensor == WORLD * (WORLD + 1) / 2).all() for tensor in tensors)


@check
def broadcast_of_every_dtype():
    for dtype in (
        *FLOATS,
        *INTEGERS,
        torch.bool,
        torch.complex64,
        torch.complex128,
        torch.float8_e4m3fn,
        torch.uint16,
    ):
        root = WORLD - 1
        source = torch.arange(11, dtype=torch.float32).to(dtype)
        tensor = source.clone() if root == RANK else torch.zeros(11, dtype=dtype)
        dist.broadcast(tensor, root)
        assert torch.equal(tensor.view(torch.uint8), source.view(torch.uint8)), dtype


@check
def gathering():
    for size in (1, 5, 20000):  # 80000 bytes take gloo
        mine = torch.arange(size, dtype=torch.float32) + RANK
        everyone = [torch.empty(size) for _ in range(WORLD)]
        dist.all_gather(everyone, mine)
        assert all(torch.equal(one, torch.arange(size) + float(rank)) for rank, one in enumerate(everyone))
        flat = torch.zeros(WORLD * size)
        flat[RANK * size : (RANK + 1) * size] = mine
        dist.all_gather_single(flat, flat[RANK * size : (RANK + 1) * size])
        assert torch.equal(flat, torch.cat(everyone))


@check
def reduce_to_one():
    for root in range(WORLD):
        tensor = torch.full((7,), RANK + 1.0)
        dist.reduce(tensor, root)
        expected = WORLD * (WORLD + 1) / 2 if root == RANK else RANK + 1.0
        assert torch.equal(tensor, torch.full((7,), expected))


@check
def reduce_and_scatter():
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        whole = torch.arange(4 * WORLD).to(dtype) * (RANK + 1)
        before = whole.clone()
        mine = torch.empty(4, dtype=dtype)
        expected = torch.arange(4 * WORLD).to(dtype)[4 * RANK : 4 * RANK + 4] * (WORLD * (WORLD + 1) // 2)
        dist.reduce_scatter_single(mine, whole)
        assert torch.equal(mine, expected), dtype
        assert torch.equal(whole, before), "the input was changed"
        mine.zero_()
        dist.reduce_scatter(mine, list(whole.chunk(WORLD)))
        assert torch.equal(mine, expected), dtype
    mine = torch.empty(2)
    dist.reduce_scatter_single(mine, torch.full((2 * WORLD,), float(RANK)), op=ReduceOp.AVG)
    assert torch.allclose(mine, torch.full((2,), (WORLD - 1) / 2))


@check
def what_gloo_does():
    gathered = [torch.empty(2) for _ in range(WORLD)] if RANK == 0 else None
    dist.gather(torch.full((2,), float(RANK)), gathered, 0)
    if RANK == 0:
        assert [one[0].item() for one in gathered] == list(range(WORLD))
    piece = torch.empty(1)
    dist.scatter(piece, [torch.tensor([float(rank)]) for rank in range(WORLD)] if RANK == 0 else None, 0)
    assert piece.item() == RANK
    sent = torch.arange(WORLD) + 10 * RANK
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    assert received.tolist() == [10 * rank + RANK for rank in range(WORLD)]
    after, before = (RANK + 1) % WORLD, (RANK - 1) % WORLD
    incoming = torch.empty(1)
    requests = dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, torch.tensor([float(RANK)]), after), dist.P2POp(dist.irecv, incoming, before)]
    )
    for request in requests:
        request.wait()
    assert incoming.item() == before


@check
def sparse_tensors():
    tensor = torch.sparse_coo_tensor([[RANK]], [1.0], (WORLD,))
    dist.all_reduce(tensor)
    assert torch.equal(tensor.to_dense(), torch.ones(WORLD))
    for count, rows in ((300, 20_000), (300, 500), (4000, 5000)):  # gathered; summed; rows said as bits
        generator = torch.Generator().manual_seed(RANK)
        rows_of_rank = torch.randint(rows, (1, count), generator=generator)
        ours = torch.sparse_coo_tensor(rows_of_rank, sample(torch.float32, count, 64), (rows, 64))
        expected = by_gloo(ours, ReduceOp.SUM)
        dist.all_reduce(ours)
        assert ours.is_coalesced() == expected.is_coalesced()
        assert torch.equal(ours.indices(), expected.indices())
        assert (ours.values() - expected.values()).abs().max() < 1e-6 * expected.values().abs().max()
        same_on_all_ranks(ours.values())


@check
def objects():
    everyone = [None] * WORLD
    dist.all_gather_object(everyone, {"rank": RANK})
    assert everyone == [{"rank": rank} for rank in range(WORLD)]
    said = [f"from {RANK}"]
    dist.broadcast_object_list(said, src=0)
    assert said == ["from 0"]


@check
def functional_collectives():
    group = dist.group.WORLD
    total = funcol.all_reduce(torch.full((4,), RANK + 1.0), "sum", group)
    assert torch.equal(torch.as_tensor(total.wait()), torch.full((4,), WORLD * (WORLD + 1) / 2))
    gathered = funcol.all_gather_tensor(torch.tensor([float(RANK)]), 0, group)
    assert gathered.wait().tolist() == list(range(WORLD))
    scattered = funcol.reduce_scatter_tensor(torch.arange(float(WORLD)), "avg", 0, group)
    assert scattered.wait().tolist() == [RANK]


@check
def subgroup():
    pair = dist.new_group([0, 1])
    if RANK < 2:
        tensor = torch.full((3,), RANK + 1.0)
        dist.all_reduce(tensor, group=pair)
        assert torch.equal(tensor, torch.full((3,), 3.0))
        assert dist.get_backend(pair) == "switchml"
        assert pair._membership.placement.job != dist.group.WORLD._membership.placement.job
        dist.destroy_process_group(pair)
    dist.barrier()


@check
def monitored_barrier():
    """`dist.monitored_barrier` itself refuses every backend but gloo by name."""
    group = dist.new_group()  # of its own: gloo's connections do not outlive the failure
    group.monitored_barrier(timedelta(seconds=20))
    if RANK != 1:  # rank 1 comes too late
        with pytest.raises(RuntimeError, match="Ranks 1 failed" if RANK == 0 else ""):
            group.monitored_barrier(timedelta(seconds=1), wait_all_ranks=True)
    dist.barrier()
    dist.destroy_process_group(group)


@check
def large_calls_in_odd_layouts():
    """Too large for the switch, and nothing that gloo would take as it is."""
    total = WORLD * (WORLD + 1) / 2
    turned = torch.full((300, 200), RANK + 1.0, dtype=torch.float64).t()
    dist.all_reduce(turned)
    assert torch.equal(turned, torch.full((200, 300), total, dtype=torch.float64))
    before = torch.full((200_000,), RANK + 1)
    reduced = before.clone()
    dist.reduce(reduced, 1)
    assert torch.equal(reduced, torch.full_like(before, int(total)) if RANK == 1 else before)
    narrow = torch.full((300_000,), RANK, dtype=torch.float32).to(torch.float8_e4m3fn)
    stacked = torch.empty(WORLD, 300_000, dtype=torch.float8_e4m3fn)
    work = dist.all_gather_single(stacked, narrow, async_op=True)
    work.get_future().wait()
    assert all(
        torch.equal(row.float(), torch.full((300_000,), float(rank))) for rank, row in enumerate(stacked)
    )
    parts = [torch.full((100_000,), 1.0 + rank, dtype=torch.float64) for rank in range(WORLD)]
    mine = torch.empty(100_000, dtype=torch.float64)
    work = dist.reduce_scatter(mine, parts, async_op=True)
    work.get_future().wait()
    assert torch.equal(mine, torch.full_like(mine, WORLD * (1.0 + RANK)))


@check
def device_mesh():
    from switchml.torch_backend import Options

    mesh = init_device_mesh("cpu", (1, WORLD), mesh_dim_names=("outer", "inner"))
    tensor = torch.full((3,), RANK + 1.0)
    dist.all_reduce(tensor, group=mesh.get_group("inner"))
    assert torch.equal(tensor, torch.full((3,), WORLD * (WORLD + 1) / 2))
    alone = torch.full((3,), RANK + 1.0)
    dist.all_reduce(alone, group=mesh.get_group("outer"))
    assert torch.equal(alone, torch.full((3,), RANK + 1.0))
    override = {"x": ("switchml", Options(timeout=timedelta(seconds=30)))}
    other = init_device_mesh("cpu", (WORLD,), mesh_dim_names=("x",), backend_override=override)
    dist.all_reduce(tensor, group=other.get_group())


@check
def names():
    group = dist.group.WORLD
    assert dist.get_backend() == "switchml"
    assert (group.rank(), group.size(), group.name()) == (RANK, WORLD, "switchml")
    assert group.group_name
    assert group.group_desc == "default_pg"
    assert group._device_types == [torch.device("cpu")]
    assert group.switch_address.count(":") == 1


@check
def timeout_can_be_set():
    from torch.distributed.distributed_c10d import _set_pg_timeout

    group = dist.new_group(timeout=timedelta(seconds=44))
    assert group._membership.timeout == 44
    _set_pg_timeout(timedelta(seconds=55), group)
    assert group._membership.timeout == 55
    group.set_timeout(timedelta(seconds=66))
    assert group._membership.timeout == 66


@check
def the_switch_counts():
    counters = dist.group.WORLD.switch_counters()
    assert counters["packets_sent"] > 0


if __name__ == "__main__":
    dist.init_process_group("switchml", timeout=timedelta(seconds=60))
    RANK, WORLD = dist.get_rank(), dist.get_world_size()
    GLOO = dist.new_group(backend="gloo")
    outcome = {}
    for name, function in CHECKS.items():
        try:
            function()
        except Exception:
            outcome[name] = traceback.format_exc()
        else:
            outcome[name] = ""
    dist.destroy_process_group()
    print(json.dumps(outcome))
