"""Narrow wires over a real emulator and real transports: the model's bits, bounds, what is refused."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from narrow_model import narrow_sum

from switchml.errors import JoinError, LayoutMismatchError, UsageError
from switchml.protocol.messages import ELEMENT_BYTES, wire_lanes
from switchml.switch_emulator import Emulator
from switchml.switch_emulator.faults import new_faults
from switchml.worker import Rounding, Worker

_BITS = {"int16": 16, "int8": 8}

wires = pytest.mark.parametrize("wire", _BITS)


def _normal(rank: int, count: int) -> np.ndarray:
    return np.random.default_rng((rank, count)).standard_normal(count).astype(np.float32)


def _sums(world: Any, inputs: list[np.ndarray], op: str = "sum", **more: Any) -> tuple[np.ndarray, float]:
    """The result, which all ranks have bit for bit, and the error bound."""

    def reduce(worker: Worker) -> tuple[np.ndarray, float]:
        work = worker.allreduce(inputs[worker.rank].copy(), op, **more)
        return work.wait(), work.error_bound()

    results = world.run(reduce)
    assert {(result.tobytes(), bound) for result, bound in results} == {
        (results[0][0].tobytes(), results[0][1])
    }
    return results[0]


@wires
@pytest.mark.parametrize("size", [1, 3])
def test_sums_by_every_transport_are_the_models(transport_worlds: Any, size: int, wire: str) -> None:
    world = transport_worlds(size, wire=wire, payload=256, window=8)
    block = 256 // ELEMENT_BYTES * wire_lanes(wire)
    for count in (50_000, 8 * 4096, 9 * block + 8192):
        inputs = [_normal(rank, count) for rank in range(size)]
        result, bound = _sums(world, inputs)
        assert np.array_equal(result, narrow_sum(inputs, _BITS[wire], block))
        exact = np.sum(np.stack(inputs).astype(np.float64), axis=0)
        assert 0 < np.abs(result - exact).max() <= bound


@wires
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_averages(worlds: Any, wire: str, dtype: str) -> None:
    world = worlds(3, wire=wire)
    inputs = [_normal(rank, 30_000).astype(dtype) for rank in range(3)]
    result, bound = _sums(world, inputs, "avg")
    exact = np.mean(np.stack(inputs).astype(np.float64), axis=0)
    assert (np.abs(result - exact) <= bound + np.finfo(dtype).eps * np.abs(exact)).all()


@wires
def test_bfloat16(worlds: Any, wire: str) -> None:
    world = worlds(2, wire=wire)
    wide = [_normal(rank, 50_000) for rank in range(2)]
    inputs = [(values.view(np.uint32) >> 16).astype(np.uint16) for values in wide]
    result, bound = _sums(world, inputs, dtype="bfloat16")
    values = [
        (half.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for half in [*inputs, result]
    ]
    exact = values[0] + values[1]
    assert (np.abs(values[2] - exact) <= bound + np.abs(values[2]) * 2.0**-8).all()


@wires
def test_all_else_is_as_on_any_wire(worlds: Any, wire: str) -> None:
    """Integers, other reductions, small sums, broadcasts: exact."""
    world = worlds(2, wire=wire)
    rng = np.random.default_rng(1)
    whole = [rng.integers(-(2**31), 2**31, 20_000, np.int32) for _ in range(2)]
    assert np.array_equal(_sums(world, whole)[0], whole[0] + whole[1])
    floats = [_normal(rank, 20_000) for rank in range(2)]
    assert np.array_equal(_sums(world, floats, "max")[0], np.maximum(*floats))
    assert np.array_equal(_sums(world, [values[:100] for values in floats])[0], (floats[0] + floats[1])[:100])
    given = world.run(lambda worker: worker.broadcast(floats[worker.rank].copy(), root=1).wait())
    assert all(np.array_equal(values, floats[1]) for values in given)


@wires
def test_what_no_lane_holds_goes_exactly(worlds: Any, wire: str) -> None:
    world = worlds(2, wire=wire, payload=1024)
    block = 256 * wire_lanes(wire)
    inputs = [_normal(rank, 12 * block) for rank in range(2)]
    inputs[0][block + 3], inputs[1][block + 4], inputs[1][3 * block + 5] = np.nan, -np.inf, 1.5e38
    result, _ = _sums(world, inputs)
    exact = inputs[0] + inputs[1]
    for number in (1, 3):
        part = slice(number * block, (number + 1) * block)
        np.testing.assert_array_equal(result[part], exact[part])
    rest = np.ones(exact.size, bool)
    rest[block : 2 * block] = rest[3 * block : 4 * block] = False
    model = narrow_sum(
        [np.where(rest, values, 0).astype(np.float32) for values in inputs], _BITS[wire], block
    )
    assert np.array_equal(result[rest], model[rest])
    assert world.workers[0].counters()["blocks_exact"] == 2


@wires
def test_faults_do_not_change_a_bit(worlds: Any, wire: str) -> None:
    with Emulator(faults=new_faults(loss=0.05, duplicate=0.05, reorder=0.05, seed=3)) as bad:
        world = worlds(2, switch=bad.control_address, transport="udp", wire=wire, payload=256, window=16)
        inputs = [_normal(rank, 60_000) for rank in range(2)]
        result, _ = _sums(world, inputs)
        again = sum(worker.counters()["retransmissions"] for worker in world.workers)
        world.close()
    assert np.array_equal(result, narrow_sum(inputs, _BITS[wire], 64 * wire_lanes(wire)))
    assert again > 0


@wires
def test_feedback_keeps_what_was_rounded_off(worlds: Any, wire: str) -> None:
    """The sum of many averages stays within a step of the truth, where without feedback errors add up.

    Ranks pull in opposite ways, so that their sums fit a lane: what a switch rounds off is nobody's to keep.
    """
    world = worlds(2, wire=wire)
    steps, count = 40, 20_000
    gradients = [_normal(rank, count) for rank in range(2)]
    gradients[1] = np.float32(-0.7) * gradients[0]
    gradients[0][5] = np.inf  # in the first step alone

    def train(worker: Worker) -> tuple[np.ndarray, np.ndarray]:
        kept, total = np.zeros(count, np.float32), np.zeros(count)
        gradient, out = gradients[worker.rank].copy(), np.empty(count, np.float32)
        for step in range(steps):
            kept += gradient
            seed = 1000 * worker.rank + step
            worker.allreduce(kept, "avg", out=out, rounding=Rounding(seed, feedback=True)).wait()
            assert np.isfinite(kept).all()
            total += out
            gradient[5] = 0
        return total, kept

    results = world.run(train)
    assert results[0][0].tobytes() == results[1][0].tobytes()
    truth = steps * np.mean(np.stack(gradients).astype(np.float64), axis=0)
    beyond = np.delete(np.arange(count), np.arange(1024 * 4))  # not in the block that went exactly
    off = np.abs(results[0][0][beyond] - truth[beyond])
    step = 2.0 ** (4 - _BITS[wire])  # of exponent 3: the values are below 8
    assert off.max() <= step
    small = world.run(lambda worker: _exact_feedback(worker))
    assert all(np.array_equal(result, [2.0] * 10) and not kept.any() for result, kept in small)


def _exact_feedback(worker: Worker) -> tuple[np.ndarray, np.ndarray]:
    kept, out = np.ones(10, np.float32), np.empty(10, np.float32)
    return worker.allreduce(kept, out=out, rounding=Rounding(feedback=True)).wait(), kept


def test_feedback_wants_memory_of_its_own(worlds: Any) -> None:
    (worker,) = worlds(1, wire="int8").workers
    (wide,) = worlds(1).workers
    values = np.ones(10, np.float32)
    with pytest.raises(UsageError, match="another `out`"):
        worker.allreduce(values, rounding=Rounding(feedback=True))
    with pytest.raises(UsageError, match="another `out`"):
        worker.allreduce(values[::2], out=np.empty(5, np.float32), rounding=Rounding(feedback=True))
    for call in (
        lambda: wide.allreduce(values, rounding=Rounding(1)),
        lambda: worker.allreduce(values.astype(np.float16), rounding=Rounding(1)),
        lambda: worker.allreduce(values, "max", rounding=Rounding(1)),
    ):
        with pytest.raises(UsageError, match="rounding can be chosen for sums"):
            call()


def test_ranks_must_agree_on_the_wire(emulator: Emulator) -> None:
    def join(rank: int) -> BaseException | None:
        wire = ("int8", "float32")[rank]
        try:
            Worker.join(
                emulator.control_address, job="wires", rank=rank, world_size=2, wire=wire, join_timeout=3.0
            )
        except JoinError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        errors = list(pool.map(join, range(2)))
    (refused,) = [error for error in errors if isinstance(error, LayoutMismatchError)]
    assert "asks for wire" in str(refused)
    assert {"int8", "float32"} <= set(re.findall(r"\w+", str(refused)))


def test_an_unknown_wire_is_refused(emulator: Emulator) -> None:
    with pytest.raises(UsageError, match="wire 'int4': use one of float32, int16, int8"):
        Worker.join(emulator.control_address, job="unknown wire", rank=0, world_size=1, wire="int4")


@pytest.mark.parametrize(("wire", "payload"), [("float32", 4096), ("int16", 1024), ("int8", 1024)])
def test_a_narrow_wire_keeps_its_blocks_small(worlds: Any, wire: str, payload: int) -> None:
    (worker,) = worlds(1, wire=wire).workers
    assert (worker.wire, worker.payload) == (wire, payload)
