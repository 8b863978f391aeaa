"""Every collective: data of known results, and what our library and real baselines make of it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from switchml.bench import rank_protocol
from switchml.bench.allreduce import Network, Plan, measure
from switchml.bench.cli import bench_app
from switchml.bench.collective_data import expected_pieces, fill_given
from switchml.bench.systems.catalogue import BASELINES, VARIANTS, Entry
from switchml.bench.timed_collectives import COLLECTIVES, ROOT, Collective
from switchml.bench.verification import ELEMENT_TYPES, PERIOD, Verdict, table, to_float64, verify
from switchml.errors import UsageError

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("preloaded_ranks")]
MOVING = ("broadcast", "all_gather", "all_to_all")
REDUCING = ("allreduce", "reduce", "reduce_scatter")
WORKERS = 3


class Quiet:
    def phase(self, text: str) -> None:
        return

    def step(self) -> None:
        return


def given(collective: Collective, dtype: str, count: int) -> list[Any]:
    """What each rank gives, in float64 where that is exact."""
    kind = ELEMENT_TYPES[dtype]
    buffers = []
    for rank in range(WORKERS):
        number, length = collective.pieces(collective.given, count, WORKERS)
        buffer = np.empty(number * length, kind.storage)
        fill_given(collective, buffer, table(kind, "sum", rank, WORKERS), WORKERS)
        buffers.append(buffer)
    return buffers


def taken(collective: Collective, buffers: list[Any], rank: int) -> Any:
    """What the collective is, in numpy."""
    rows = [np.split(buffer, WORKERS) for buffer in buffers] if collective.given == "all" else []
    match collective.name:
        case "broadcast":
            return buffers[ROOT]
        case "allreduce" | "reduce":
            return sum(buffers[1:], buffers[0])
        case "all_gather":
            return np.concatenate(buffers)
        case "reduce_scatter":
            return sum((row[rank] for row in rows[1:]), rows[0][rank])
        case _:
            return np.concatenate([row[rank] for row in rows])


def compared(collective: Collective, dtype: str, result: Any, rank: int) -> Verdict:
    pieces = expected_pieces(collective, ELEMENT_TYPES[dtype], "sum", rank, WORKERS, rounded=False)
    parts = np.split(result, max(1, len(pieces)))
    verdicts = [verify(part, piece, np.zeros(PERIOD)) for piece, part in zip(pieces, parts, strict=False)]
    return sum(verdicts, Verdict(0, 0, 0.0))


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("name", MOVING + REDUCING)
def test_what_is_expected_is_what_the_collective_does(name: str, dtype: str) -> None:
    collective = COLLECTIVES[name]
    count = 3 * 70_001  # more than the table of a rank in each piece
    buffers = given(collective, dtype, count)
    for rank in range(WORKERS):
        result = taken(collective, buffers, rank)
        verdict = compared(collective, dtype, result, rank)
        gets = not collective.rooted or rank == ROOT
        assert (verdict.wrong, verdict.checked) == (0, result.size if gets else 0)
        if gets and collective.taken == "all":
            # Pieces of the wrong ranks, and of the right ones in the wrong place.
            assert compared(collective, dtype, np.roll(result, count // WORKERS), rank).wrong > count // 2
        if collective.given == "all":
            other = taken(collective, buffers, (rank + 1) % WORKERS)
            assert compared(collective, dtype, other, rank).wrong > 0.9 * other.size


def test_sizes_come_in_whole_pieces() -> None:
    assert COLLECTIVES["all_gather"].check_count(1000, 3) == 999
    assert COLLECTIVES["allreduce"].check_count(1000, 3) == 1000
    with pytest.raises(UsageError, match="reduce_scatter of 2 elements: 3 workers need one each"):
        COLLECTIVES["reduce_scatter"].check_count(2, 3)


def test_bus_bandwidths_are_those_of_nccl_tests() -> None:
    assert {name: one.bus(4) for name, one in COLLECTIVES.items()} == {
        "allreduce": 1.5,
        "broadcast": 1.0,
        "reduce": 1.0,
        "all_gather": 0.75,
        "reduce_scatter": 0.75,
        "all_to_all": 0.75,
        "barrier": 1.0,
    }


def plan(entry: Entry, collective: str = "allreduce") -> Plan:
    return Plan(
        [WORKERS], [300_000], "float32", "sum", [entry], [], collective=collective, rounds=2, min_time=0.001
    )


def elements_checked(name: str, dtype: str, count: int) -> int:
    """Of all ranks together, where the larger buffer has `count` elements."""
    whole = {"one": count, "own": count // WORKERS, "all": count, "none": 0}[COLLECTIVES[name].taken]
    ranks = 1 if COLLECTIVES[name].rooted else WORKERS
    sums = 2 if name in REDUCING and ELEMENT_TYPES[dtype].floating else 1
    return whole * ranks * sums


def carried_out(entry: Entry, cases: list[tuple[str, str]]) -> None:
    """Each collective of a system, checked and timed, by the same ranks."""
    wanted = plan(entry)
    with contextlib.ExitStack() as stack:
        group = Network.build(wanted, WORKERS, stack).start(entry, wanted, stack)
        for name, dtype in cases:
            group.ask(rank_protocol.Prepare(90_000, dtype, "sum", name), 60)
            verdict = sum(group.ask(rank_protocol.Check(), 60), Verdict(0, 0, 0.0))
            expected = (0, elements_checked(name, dtype, 90_000))
            assert (verdict.wrong, verdict.checked) == expected, (name, dtype)
            assert all(seconds > 0 for seconds in group.ask(rank_protocol.Batch(2, 1), 60))


def test_our_library() -> None:
    cases = [(name, dtype) for name in REDUCING for dtype in ("float32", "bfloat16", "int32")]
    cases += [(name, dtype) for name in ("broadcast", "all_gather") for dtype in ("float32", "int8")]
    carried_out(VARIANTS["auto"], [*cases, ("barrier", "float32")])


def test_through_torch() -> None:
    pytest.importorskip("torch", reason="torch is in the extra `torch`")
    carried_out(VARIANTS["torch"], [(name, "float32") for name in COLLECTIVES])


@pytest.mark.parametrize("system", ["gloo", "mpi-shm", "mpich", "impi"])
def test_baselines(system: str) -> None:
    try:
        BASELINES[system].check_usable("float32", "sum", namespaces=False)
    except UsageError as error:
        pytest.skip(str(error))
    carried_out(BASELINES[system], [(name, "float32") for name in COLLECTIVES])


def test_a_barrier_moves_nothing() -> None:
    (one,) = measure(plan(VARIANTS["auto"], "barrier"), Quiet())
    assert (one.size, one.count, one.algbw, one.verdict) == (0, 0, 0.0, Verdict(0, 0, 0.0))
    assert one.time.minimum > 0


def test_a_collective_as_a_command() -> None:
    arguments = ["--workers", "2", "--sizes", "4K,64K", "--rounds", "1", "--min-time", "0.01"]
    done = CliRunner().invoke(
        bench_app, ["all_gather", *arguments, "--baseline", "none", "--json", "-"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["benchmark"], document["plan"]["collective"]) == ("all_gather", "all_gather")
    for one in document["results"]:
        assert (one["collective"], one["op"], one["verdict"]["wrong"]) == ("all_gather", "none", 0)
        assert one["busbw"] == pytest.approx(one["algbw"] / 2)
    assert "milliseconds of one all-gather" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["all_to_all"], "auto has no all_to_all; leave it out (ours: --variants none)"),
        (["all_gather", "--workers", "4", "--sizes", "8", "--baseline", "none"], "4 workers need one each"),
        (["barrier", "--plot", "barrier.png"], "no sizes to draw"),
    ],
)
def test_what_a_collective_cannot_do(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(bench_app, arguments)
    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)


def test_moved_elements_keep_all_their_bits() -> None:
    """Full mantissas are moved, and nothing is allowed to differ."""
    kind = ELEMENT_TYPES["float32"]
    (piece,) = expected_pieces(COLLECTIVES["broadcast"], kind, "sum", 1, WORKERS, rounded=True)
    sent = table(kind, "sum", ROOT, WORKERS, rounded=True)
    assert np.array_equal(piece.values, to_float64(kind, sent))
    changed = sent.copy()
    changed[7] = np.nextafter(changed[7], np.float32(np.inf))
    assert verify(changed, piece, np.zeros(PERIOD)).wrong == 1
