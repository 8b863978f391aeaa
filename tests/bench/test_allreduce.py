"""The interleaved measurement: its plan, its order, its figures, with the fake and with real baselines."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from switchml.bench.allreduce import Plan, measure, steps
from switchml.bench.limits import SHAPED, goodput_limit, ring_limit, spread_limit
from switchml.bench.report import build_table, closing, heading
from switchml.bench.results import Measurement, Spread, overlap, with_ratios
from switchml.bench.systems.catalogue import BASELINES, VARIANTS, Entry, find, variants_of
from switchml.bench.verification import Verdict
from switchml.errors import BenchError, UsageError
from switchml.testbed import LinkShape, why_unavailable

pytestmark = pytest.mark.usefixtures("preloaded_ranks")


class Watcher:
    """Counts steps and keeps the phases."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.steps = 0

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def step(self) -> None:
        self.steps += 1


def plan(baselines: list[Entry], **more: Any) -> Plan:
    settings = {
        "workers": [2],
        "sizes": [4096],
        "dtype": "float32",
        "op": "sum",
        "rounds": 3,
        "min_time": 0.01,
    }
    return Plan(**{**settings, "variants": [], "baselines": baselines, **more})


def test_every_round_runs_every_system_and_the_order_rotates(fake: Callable[..., Entry]) -> None:
    entries = [fake(name) for name in ("one", "two", "three")]
    watcher = Watcher()
    wanted = plan(entries, sizes=[400, 70_002], workers=[1, 2])
    measured = list(measure(wanted, watcher))
    assert watcher.steps == steps(wanted)
    rounds = [phase for phase in watcher.phases if phase.startswith("2 workers, 100 x") and "round" in phase]
    names = [phase.rpartition(", ")[2] for phase in rounds]
    assert names == ["one", "two", "three", "two", "three", "one", "three", "one", "two"]
    assert [(one.workers, one.size, one.system) for one in measured] == [
        (workers, size, name)
        for workers in (1, 2)
        for size in (400, 70_000)
        for name in ("one", "two", "three")
    ]
    for one in measured:
        assert len(one.rounds) == 3
        assert one.time.minimum > 0
        assert one.verdict is not None
        assert one.verdict.wrong == 0
        assert set(one.ratios) == {"one", "two", "three"} - {one.system}


def test_wrong_sums_and_retransmissions_reach_the_result(fake: Callable[..., Entry]) -> None:
    (bad,) = measure(plan([fake(fault="wrong", retransmissions=2)], iterations=4), Watcher())
    assert bad.verdict is not None
    assert bad.verdict.wrong == 4
    # Three rounds of four reductions on two ranks; the check and the warming up do not count.
    assert bad.counters == {"retransmissions": 3 * 4 * 2 * 2}
    (unchecked,) = measure(plan([fake(fault="wrong")], check=False), Watcher())
    assert unchecked.verdict is None


def test_several_jobs_of_a_system_are_asked_at_once_and_reported_one_by_one(
    fake: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def compared(timelines: list[list[float]]) -> tuple[float, list[float]]:
        seen.append(timelines)
        return 6.0, [1.0, 3.0]

    monkeypatch.setattr("switchml.bench.allreduce.overlap", compared)
    watcher = Watcher()
    wanted = plan([fake("a"), fake("b")], jobs=2, iterations=20)
    measured = list(measure(wanted, watcher))
    assert watcher.steps == steps(wanted)
    assert len(seen) == 3 * 2
    for first, second in seen:
        assert len(first) == len(second) == 21
        assert first == sorted(first)
    assert [one.system for one in measured] == ["a job 1", "a job 2", "b job 1", "b job 2"]
    assert [one.shares["all jobs"].median for one in measured] == [0.25, 0.75] * 2
    assert [one.time.median for one in measured] == [6.0, 2.0] * 2
    assert "of all jobs" in shown(wanted, measured)


def test_jobs_that_did_not_run_together_are_an_error(
    fake: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "switchml.bench.allreduce.overlap", lambda timelines: overlap([[0.0, 1.0], [2.0, 3.0]])
    )
    with pytest.raises(BenchError, match="did not run at the same time; give more --iterations"):
        list(measure(plan([fake()], jobs=2, iterations=1), Watcher()))


def test_the_time_of_several_jobs_is_that_in_which_all_run() -> None:
    seconds, done = overlap([[0.0, 1.0, 2.0, 3.0, 4.0], [0.5, 2.5, 4.5]])
    assert seconds == 3.5
    assert done == pytest.approx([3.5, 1.75])
    assert overlap([[0.0, 10.0], [4.0, 5.0, 6.0]]) == (2.0, pytest.approx([0.2, 2.0]))
    with pytest.raises(ValueError, match="same time"):
        overlap([[0.0, 1.0], [1.0, 2.0]])


@pytest.mark.namespaces
def test_other_traffic_on_the_link_is_reported_beside_ours() -> None:
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(f"no testbed here: {reason}")
    shape = LinkShape(rate=50_000_000)
    settings = {"rounds": 2, "sizes": [1 << 20], "iterations": 2, "beside": "tcp-reno"}
    wanted = plan([], variants=[VARIANTS["udp"]], shape=shape, **settings)
    (one,) = measure(wanted, Watcher())
    assert set(one.shares) == {"tcp-reno up", "tcp-reno down"}
    for share in one.shares.values():
        assert 0 < share.median < 1 + 8 * (shape.burst + shape.queue) / shape.rate / one.time.minimum
    assert one.verdict is not None
    assert one.verdict.wrong == 0
    assert "tcp-reno down" in shown(wanted, [one])
    assert any("tcp-reno up, down" in line for line in closing(wanted, [one]))


def test_a_failure_in_the_middle_ends_everything(fake: Callable[..., Entry]) -> None:
    with pytest.raises(BenchError, match="lost rank 1"):
        list(measure(plan([fake("good"), fake("bad", fault="die")]), Watcher()))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dtype": "float8"}, "dtype"),
        ({"op": "bor"}, "integers"),
        ({"rounds": 0}, "round"),
        ({"sizes": [2]}, "one element"),
        ({"baselines": []}, "nothing to measure"),
        ({"shape": LinkShape(rate=10**9), "switch": "127.0.0.1:1"}, "--switch"),
        ({"switches": "some"}, "hub, one, each"),
        ({"jobs": 0}, "at least one"),
        ({"beside": "udp", "shape": LinkShape(rate=10**9)}, "write tcp"),
        ({"beside": "tcp"}, "give a --rate"),
        ({"beside": "tcp", "shape": LinkShape(loss=0.1)}, "give a --rate"),
        ({"switches": "each", "switch": "127.0.0.1:1"}, "--switches places"),
        ({"switches": "racks"}, "several --racks"),
        ({"uplink": 10**7}, "several --racks"),
        ({"racks": 2}, "built here"),
        ({"racks": 2, "switches": "each", "shape": LinkShape(rate=10**9)}, "hub or racks"),
        ({"racks": 2, "workers": [2, 3], "shape": LinkShape(rate=10**9)}, "as many workers"),
        ({"racks": 2, "uplink": 10**7, "shape": LinkShape(loss=0.1)}, "--rate"),
        (
            {"variants": [VARIANTS["torch"]], "shape": LinkShape(loss=0.1), "racks": 2, "switches": "racks"},
            "join at one switch",
        ),
        ({"baselines": [BASELINES["mpi-shm"]], "shape": LinkShape(rate=10**9)}, "one host"),
        ({"variants": [VARIANTS["shm"]], "shape": LinkShape(rate=10**9)}, "one host"),
        ({"baselines": [BASELINES["mpi-tcp"]], "dtype": "bfloat16"}, "bfloat16"),
        ({"baselines": [BASELINES["gloo"]], "op": "avg"}, "avg"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused_at_once(
    fake: Callable[..., Entry], change: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        plan(**{"baselines": [fake()], **change}).validate()


def test_a_missing_library_is_named_with_its_extra(fake: Callable[..., Entry]) -> None:
    entry = Entry(**{**vars(fake()), "requires": ("no_such_library",), "extra": "bench"})
    with pytest.raises(UsageError, match=r"no_such_library.*switchml\[bench\]"):
        plan([entry]).validate()


def test_transports_name_variants() -> None:
    assert variants_of("all", None) == ["memory", "shm", "udp-multicast", "udp-unicast"]
    assert variants_of("udp", True) == ["udp-multicast"]
    assert variants_of("udp", False) == ["udp-unicast"]
    assert variants_of("auto", None) == ["auto"]
    for wrong in (("tcp", None), ("shm", True)):
        with pytest.raises(UsageError):
            variants_of(*wrong)
    with pytest.raises(UsageError, match="nccl"):
        find(["nccl"], BASELINES, "baseline")
    with pytest.raises(UsageError, match="repeats"):
        find(["gloo", "gloo"], BASELINES, "baseline")


def measurement(system: str, rounds: tuple[float, ...], **more: Any) -> Measurement:
    settings: dict[str, Any] = {
        "workers": 4,
        "size": 1 << 20,
        "count": 1 << 18,
        "dtype": "float32",
        "op": "sum",
        "iterations": 1,
        "verdict": Verdict(0, 10, 0.0),
        "counters": {"retransmissions": 7},
        "facts": {},
        "limit": None,
    }
    return Measurement(system=system, rounds=rounds, **{**settings, **more})


def test_bandwidths_follow_their_definitions() -> None:
    one = measurement("x", (0.001, 0.002, 0.004), limit=2 * (1 << 20) / 0.002)
    assert one.algbw == pytest.approx((1 << 20) / 0.002)
    assert one.busbw == pytest.approx(one.algbw * 1.5)
    assert one.elements_per_second == pytest.approx((1 << 18) / 0.002)
    assert one.of_limit == pytest.approx(0.5)


def test_ratios_are_taken_round_by_round_against_baselines_only() -> None:
    ours, base = with_ratios([measurement("udp", (1.0, 2.0)), measurement("gloo", (3.0, 4.0))], ["gloo"])
    assert ours.ratios == {"gloo": Spread(2.5, 2.0, 3.0)}
    assert base.ratios == {}


def shown(wanted: Plan, measured: list[Measurement]) -> str:
    console = Console(width=220, file=io.StringIO())
    with console.capture() as capture:
        console.print(build_table(wanted, measured))
    return capture.get()


def test_the_table_shows_what_was_measured() -> None:
    wanted = plan([BASELINES["gloo"]], variants=[VARIANTS["udp"]], workers=[4], shape=LinkShape(rate=10**9))
    limit = goodput_limit(10**9, 1024, SHAPED)
    measured = with_ratios(
        [
            measurement("udp", (0.0090, 0.0091, 0.0092), limit=limit, facts={"payload": 1024}),
            measurement(
                "gloo", (0.0130, 0.0135, 0.0140), limit=ring_limit(10**9, 4, framing=SHAPED), counters={}
            ),
        ],
        ["gloo"],
    )
    lines = shown(wanted, measured).splitlines()
    ours, base = (next(line.split() for line in lines if f" {name} " in line) for name in ("udp", "gloo"))
    assert ours[:8] == ["1M", "262144", "float32", "sum", "udp", "9.100", "[9.000", "9.200]"]
    assert ours[8:] == ["0.1152", "0.1728", "28.81", "96.9", "7", "0", "1.48", "[1.44", "1.52]"]
    assert base[12:] == ["-", "0"]
    text = "\n".join(closing(wanted, measured))
    assert "1 Gbit/s x 1024 / (1024 + 10 + 28 + 14) = 0.119 GB/s" in text
    assert "with 38: 0.1164 GB/s" in text
    assert "ring over TCP at 4 workers: goodput x 4 / 6 = 0.0797 GB/s" in text


def test_wrong_elements_stand_out_and_absent_figures_are_dashes() -> None:
    wanted = plan([BASELINES["gloo"]])
    table = shown(wanted, [measurement("gloo", (1.0,), verdict=Verdict(12, 100, 1.0), counters={})])
    assert table.split()[-2:] == ["-", "12"]
    assert "No link rate is known" in closing(wanted, [])[0]


def test_the_heading_names_machine_and_network() -> None:
    facts = {
        "switchml": "1",
        "processor": "P",
        "cores": 2,
        "kernel": "6",
        "tcp_congestion_control": "bbr",
        "load_average": 9.0,
    }
    lines = heading(plan([BASELINES["gloo"]], shape=LinkShape(rate=10**8, loss=0.01)), facts)
    assert "2 cores, Linux 6, TCP bbr" in lines[0]
    assert "100 Mbit/s, 1.0000% of packets lost" in lines[1]
    assert "Load average 9.0" in lines[2]
    assert "loopback" in heading(plan([BASELINES["gloo"]]), {**facts, "load_average": 0.0})[1]
    assert heading(plan([BASELINES["gloo"]], switches="each"), facts)[1].endswith(
        "; a switch on each worker's host"
    )


def installed(entry: Entry) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in entry.requires)


@pytest.mark.parametrize("name", [name for name, entry in BASELINES.items() if entry.launcher != "started"])
@pytest.mark.parametrize(("dtype", "op"), [("float32", "sum"), ("int32", "max")])
def test_real_baselines_reduce_correctly(name: str, dtype: str, op: str) -> None:
    entry = BASELINES[name]
    try:
        entry.check_usable(dtype, op, namespaces=False)
    except UsageError as error:
        pytest.skip(str(error))
    wanted = plan([entry], workers=[3], dtype=dtype, op=op, rounds=1, sizes=[400_000])
    (one,) = measure(wanted, Watcher())
    assert one.verdict is not None
    assert one.verdict.wrong == 0
    assert one.verdict.checked == 3 * 100_000 * (2 if dtype == "float32" else 1)


@pytest.mark.parametrize("name", ["memory", "shm", "udp-multicast", "udp-unicast", "auto"])
def test_our_own_systems_reduce_correctly(name: str) -> None:
    wanted = plan([], variants=[VARIANTS[name]], workers=[2], rounds=1, sizes=[400_000])
    (one,) = measure(wanted, Watcher())
    assert one.verdict is not None
    assert one.verdict.wrong == 0
    assert one.facts["transport"] == {"auto": "memory"}.get(name, name.partition("-")[0])
    assert one.counters["retransmissions"] >= 0


def test_switches_of_a_run_on_loopback() -> None:
    wanted = plan([], variants=[VARIANTS["auto"]], workers=[3], rounds=1, sizes=[400_000], switches="each")
    (one,) = measure(wanted, Watcher())
    assert one.verdict is not None
    assert one.verdict.wrong == 0


def test_limits_by_where_the_switches_are() -> None:
    link = goodput_limit(10**9, 1024)
    limits = {
        (where, workers): spread_limit(10**9, 1024, where, workers) / link
        for where in ("hub", "one", "each")
        for workers in (1, 2, 4, 8)
    }
    never = float("inf")
    assert limits == pytest.approx(
        {
            **{("hub", workers): 1.0 for workers in (1, 2, 4, 8)},
            ("one", 1): never,
            ("one", 2): 1.0,
            ("one", 4): 1 / 3,
            ("one", 8): 1 / 7,
            ("each", 1): never,
            ("each", 2): 1.0,
            ("each", 4): 2 / 3,
            ("each", 8): 4 / 7,
        }
    )


@pytest.mark.namespaces
@pytest.mark.parametrize("switches", ["hub", "one", "each"])
def test_shaped_links_hold_gloo_and_ours_below_their_limits(switches: str) -> None:
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(f"no testbed here: {reason}")
    gloo = [BASELINES["gloo"]] if switches == "hub" else []  # has none
    if not all(map(installed, gloo)):
        pytest.skip("gloo needs torch")
    shape = LinkShape(rate=200_000_000)
    wanted = plan(
        gloo,
        variants=[VARIANTS["udp" if switches == "hub" else "auto"]],
        workers=[3],
        shape=shape,
        switches=switches,
        rounds=1,
        sizes=[4 << 20],
        iterations=1,
    )
    for one in measure(wanted, Watcher()):
        assert one.verdict is not None
        assert one.verdict.wrong == 0
        assert one.of_limit is not None
        # A bucket's worth may pass unshaped on the way up and on the way down, of what passes the busiest link.
        assert one.of_limit < 1 + 4 * shape.burst / one.size
        if one.system != "gloo":
            assert one.facts["transport"] == {"hub": "udp", "one": "shm", "each": "shm+udp"}[switches]


@pytest.mark.namespaces
def test_two_racks_sum_right_with_losses_on_every_link() -> None:
    reason = why_unavailable(loss=True)
    if reason is not None:
        pytest.skip(f"no testbed here: {reason}")
    rate, uplink = 200_000_000, 50_000_000
    wanted = plan(
        [],
        variants=[VARIANTS["udp"]],
        workers=[4],
        sizes=[8192],
        rounds=1,
        iterations=1,
        shape=LinkShape(rate=rate, loss=0.02),
        racks=2,
        uplink=uplink,
        switches="racks",
    )
    wanted.validate()
    (one,) = measure(wanted, Watcher())
    assert one.verdict is not None
    assert one.verdict.wrong == 0
    assert one.limit == goodput_limit(uplink, one.facts["payload"], SHAPED)
    assert any(
        "50 Mbit/s, 1 times upwards with a switch in each rack" in line for line in closing(wanted, [one])
    )
    at_the_hub = closing(dataclasses.replace(wanted, switches="hub"), [one])
    assert any("50 Mbit/s, 2 times upwards" in line for line in at_the_hub)
