"""switchml against gloo on random calls: dtypes, operations, shapes, layouts and groups, over a real switch.

The ranks are threads of this process, so that hypothesis can find the smallest call that goes wrong. The reference is
the gloo group that every switchml group has beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import ReduceOp

from switchml.control import embedded
from switchml.protocol.numerics import error_bound, exponent_of_magnitude
from switchml.torch_backend.creation import create_process_group
from switchml.torch_backend.options import Options

WORLD = 4
GROUPS = ((0, 1, 2, 3), (0, 1), (1, 2, 3), (3,))

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
ARITHMETIC = (ReduceOp.SUM, ReduceOp.PRODUCT, ReduceOp.MIN, ReduceOp.MAX)
BITWISE = (ReduceOp.BAND, ReduceOp.BOR, ReduceOp.BXOR)
OPERATIONS = {
    **dict.fromkeys(FLOATS, (*ARITHMETIC, ReduceOp.AVG)),
    **dict.fromkeys(COMPLEX, (ReduceOp.SUM, ReduceOp.AVG)),
    **dict.fromkeys(INTEGERS, (*ARITHMETIC, *BITWISE)),
    torch.bool: (*ARITHMETIC, *BITWISE),
}
ANY_DTYPE = (*OPERATIONS, torch.float8_e4m3fn, torch.uint16, torch.complex32)

Reduced = tuple[torch.dtype, Any]
LAYOUTS = ("contiguous", "transposed", "every second", "part")
REDUCING = ("allreduce", "coalesced", "reduce", "reduce_scatter", "reduce_scatter_single")
MOVING = ("broadcast", "allgather", "all_gather_single")


@dataclass
class Members:
    """The ranks of one group, by group rank; a call runs on all of them at once."""

    groups: list[Any]
    threads: ThreadPoolExecutor

    def __call__(self, body: Callable[[Any, int], Any]) -> list[Any]:
        """`body(group, rank)` on every rank; returns what each returned, once all have ended."""
        calls = [self.threads.submit(body, group, rank) for rank, group in enumerate(self.groups)]
        errors = [error for call in calls if (error := call.exception(120)) is not None]
        if errors:
            raise errors[0]
        return [call.result() for call in calls]


@pytest.fixture(scope="module")
def groups() -> Iterator[dict[tuple[int, ...], Members]]:
    with embedded.start() as switch, ThreadPoolExecutor(WORLD) as threads:
        made = {}
        for ranks in GROUPS:
            store = dist.HashStore()

            def open_group(rank: int, store: Any = store, ranks: tuple[int, ...] = ranks) -> Any:
                described = SimpleNamespace(
                    store=store,
                    group_rank=rank,
                    group_size=len(ranks),
                    timeout=timedelta(seconds=60),
                    group_id="-".join(map(str, ranks)),
                    global_ranks_in_group=[],
                )
                return create_process_group(described, Options(switch=switch.address, token=switch.token))

            made[ranks] = Members(list(threads.map(open_group, range(len(ranks)))), threads)
        yield made
        for members in made.values():
            members(lambda group, rank: group.shutdown())


shapes = st.one_of(
    st.just(()),
    st.integers(0, 70).map(lambda size: (size,)),
    st.tuples(st.integers(0, 9), st.integers(1, 40)),
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    st.integers(200, 6000).map(lambda size: (size,)),
    st.sampled_from([(65_536,), (300, 701), (1_000_000,)]),
)


@st.composite
def reductions(draw: st.DrawFn) -> Reduced:
    dtype = draw(st.sampled_from(list(OPERATIONS)))
    return dtype, draw(st.sampled_from(OPERATIONS[dtype]))


def values(dtype: torch.dtype, shape: tuple[int, ...], seed: int, spread: int, rank: int) -> torch.Tensor:
    """Contiguous values of a rank; spread: how many binary orders of magnitude floats differ by within a tensor."""
    random = np.random.default_rng([seed, rank])
    count = math.prod(shape)
    if dtype is torch.bool:
        return torch.from_numpy(random.integers(0, 2, count).astype(bool)).reshape(shape)
    if dtype in INTEGERS or dtype is torch.uint16:
        return torch.from_numpy(random.integers(-(2**62), 2**62, count)).to(dtype).reshape(shape)
    wide = random.uniform(-2, 2, (count, 2)) * np.exp2(random.uniform(-spread, spread, (count, 2)))
    if dtype.is_complex:
        return torch.from_numpy(wide[:, 0] + 1j * wide[:, 1]).to(dtype).reshape(shape)
    return torch.from_numpy(wide[:, 0].copy()).to(dtype).reshape(shape)


def laid_out(tensor: torch.Tensor, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same values in another layout, and the memory around it."""
    if layout == "transposed" and tensor.dim() >= 2:
        memory = tensor.transpose(0, -1).contiguous()
        return memory.transpose(0, -1), memory
    if layout == "every second" and tensor.dim() >= 1:
        memory = torch.zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]), dtype=tensor.dtype)
        view = memory[..., ::2]
    elif layout == "part":
        memory = torch.zeros(tensor.numel() + 5, dtype=tensor.dtype)
        view = memory[3 : 3 + tensor.numel()].view(tensor.shape)
    else:
        return tensor, tensor
    raw(view).copy_(raw(tensor))
    return view, memory


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """Bit patterns, for dtypes that do not compare or copy."""
    if tensor.dtype.is_complex:
        tensor = torch.view_as_real(tensor)
    size = tensor.element_size()
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size])


def known_to_gloo(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.int32) if tensor.dtype is torch.int16 else tensor.clone()


def allowed(inputs: list[torch.Tensor], op: Any) -> torch.Tensor | float:
    """How far a result may be from gloo's: what block floating point costs, and the rounding of both sums on their way."""
    dtype = inputs[0].dtype
    if not (dtype.is_floating_point or dtype.is_complex) or op in (ReduceOp.MIN, ReduceOp.MAX):
        return 0.0
    stacked = torch.stack([parts(one) for one in inputs]).double().abs()
    count = len(inputs)
    eps = torch.finfo(dtype).eps
    if op == ReduceOp.PRODUCT:
        return count * eps * stacked.prod(0) + torch.finfo(dtype).tiny
    rounding = (count + 1) * eps * stacked.sum(0) + torch.finfo(dtype).tiny
    narrow = dtype not in (torch.float64, torch.complex128)
    largest = np.float32(stacked.max() if stacked.numel() else 0.0)
    block = error_bound(exponent_of_magnitude(int(largest.view(np.int32))), count) if narrow else 0.0
    return rounding + block


def parts(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.dtype.is_complex else tensor


def assert_near(ours: torch.Tensor, reference: torch.Tensor, bound: torch.Tensor | float) -> None:
    assert ours.shape == reference.shape
    if isinstance(bound, float):
        assert torch.equal(ours, reference.to(ours.dtype))
        return
    distance = (parts(ours).double() - parts(reference).double()).abs()
    assert bool((distance <= bound).all()), f"off by {distance.max()}, allowed {bound.max()}"


def by_gloo(group: Any) -> Any:
    return group._membership.gloo.group


def reduced_by_gloo(members: Members, inputs: list[torch.Tensor], op: Any) -> torch.Tensor:
    def body(group: Any, rank: int) -> torch.Tensor:
        tensor = known_to_gloo(inputs[rank])
        if tensor.numel():
            by_gloo(group).allreduce(tensor, op).wait()
        return tensor

    return members(body)[0].to(inputs[0].dtype)


def complete(work: Any, how: str) -> None:
    if how == "future":
        work.get_future().wait()
    assert work.wait()
    assert work.is_completed()


@settings(max_examples=120)
@given(
    ranks=st.sampled_from(GROUPS),
    reduced=reductions(),
    collective=st.sampled_from(REDUCING),
    shape=shapes,
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**16),
    spread=st.sampled_from([0, 3]),
    how=st.sampled_from(["wait", "future"]),
)
def test_reductions(
    groups: Any,
    ranks: tuple[int, ...],
    reduced: Reduced,
    collective: str,
    shape: tuple[int, ...],
    layout: str,
    seed: int,
    spread: int,
    how: str,
) -> None:
    """Integers and exact operations equal gloo's; floating point is within the bound, and equal on all ranks."""
    dtype, op = reduced
    members, count = groups[ranks], len(ranks)
    if collective.startswith("reduce_scatter"):
        shape = (count, *shape)
    inputs = [values(dtype, shape, seed, spread, rank) for rank in range(count)]
    reference = reduced_by_gloo(members, inputs, op)
    bound = allowed(inputs, op)
    root = seed % count

    def body(group: Any, rank: int) -> torch.Tensor:
        tensor, memory = laid_out(inputs[rank].clone(), layout)
        before = memory.clone()
        if collective == "allreduce":
            complete(group.allreduce(tensor, op), how)
        elif collective == "coalesced":
            options = dist.AllreduceCoalescedOptions()
            options.reduceOp = op
            second = inputs[rank].clone()
            complete(group.allreduce_coalesced([tensor, second], options), how)
            assert torch.equal(raw(second), raw(tensor.contiguous()))
        elif collective == "reduce":
            complete(group.reduce(tensor, root, op), how)
            if rank != root:
                assert torch.equal(raw(memory), raw(before))
                return reference
        else:
            output, memory = laid_out(torch.empty(shape[1:], dtype=dtype), layout)
            options = dist.ReduceScatterOptions()
            options.reduceOp = op
            if collective == "reduce_scatter":
                complete(group.reduce_scatter([output], [list(tensor)], options), how)
            else:
                complete(group.reduce_scatter_single(output, tensor, options), how)
            assert torch.equal(raw(tensor.contiguous()), raw(inputs[rank])), "the input was changed"
            return output
        if layout == "every second" and tensor.dim() >= 1:
            assert not raw(memory[..., 1::2]).any(), "memory between the elements was changed"
        return tensor

    results = members(body)
    for rank, result in enumerate(results):
        if collective.startswith("reduce_scatter"):
            part = bound if isinstance(bound, float) else bound[rank]
            assert_near(result, reference[rank], part)
        else:
            assert_near(result, reference, bound)
            if collective != "reduce":
                assert torch.equal(raw(result.contiguous()), raw(results[0].contiguous())), "ranks differ"


@settings(max_examples=60)
@given(
    ranks=st.sampled_from(GROUPS),
    dtype=st.sampled_from(ANY_DTYPE),
    collective=st.sampled_from(MOVING),
    shape=shapes,
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**16),
    how=st.sampled_from(["wait", "future"]),
)
def test_what_is_only_moved(
    groups: Any,
    ranks: tuple[int, ...],
    dtype: torch.dtype,
    collective: str,
    shape: tuple[int, ...],
    layout: str,
    seed: int,
    how: str,
) -> None:
    """Every dtype arrives bit by bit."""
    members, count = groups[ranks], len(ranks)
    inputs = [values(dtype, shape, seed, 3, rank) for rank in range(count)]
    root = seed % count

    def body(group: Any, rank: int) -> list[torch.Tensor]:
        tensor, _ = laid_out(inputs[rank].clone(), layout)
        if collective == "broadcast":
            complete(group.broadcast(tensor, root), how)
            return [tensor]
        if collective == "allgather":
            outputs = [laid_out(torch.empty_like(inputs[rank]), layout)[0] for _ in range(count)]
            complete(group.allgather([outputs], [tensor]), how)
            return outputs
        output = torch.empty((count, *shape), dtype=dtype)
        complete(group.all_gather_single(output, tensor.contiguous()), how)
        return list(output)

    expected = [inputs[root]] if collective == "broadcast" else inputs
    for outputs in members(body):
        for output, one in zip(outputs, expected, strict=True):
            assert torch.equal(raw(output.contiguous()), raw(one))


@settings(max_examples=25)
@given(
    ranks=st.sampled_from(GROUPS),
    dtype=st.sampled_from(FLOATS),
    size=st.sampled_from([3, 800, 40_000]),
    seed=st.integers(0, 2**16),
    places=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**20)), min_size=1, max_size=5),
    strange=st.sampled_from([math.inf, -math.inf, math.nan]),
)
def test_what_is_not_finite_reaches_every_rank(
    groups: Any,
    ranks: tuple[int, ...],
    dtype: torch.dtype,
    size: int,
    seed: int,
    places: list[tuple[int, int]],
    strange: float,
) -> None:
    members, count = groups[ranks], len(ranks)
    inputs = [values(dtype, (size,), seed, 0, rank) for rank in range(count)]
    for number, (rank, index) in enumerate(places):
        inputs[rank % count][index % size] = strange if number == 0 else math.inf
    reference = reduced_by_gloo(members, inputs, ReduceOp.SUM)
    finite = [torch.nan_to_num(one, nan=0.0, posinf=0.0, neginf=0.0) for one in inputs]
    bound = allowed(finite, ReduceOp.SUM)

    def body(group: Any, rank: int) -> torch.Tensor:
        tensor = inputs[rank].clone()
        group.allreduce(tensor, ReduceOp.SUM).wait()
        return tensor

    for result in members(body):
        assert torch.equal(result.isnan(), reference.isnan())
        infinite = reference.isinf()
        assert torch.equal(result[infinite], reference[infinite])
        normal = reference.isfinite()
        assert not isinstance(bound, float)
        assert_near(result[normal], reference[normal], bound[normal])
