"""The account of a run, from made-up counters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from switchml.launch.plan import RunPlan
from switchml.launch.run import steps_of
from switchml.launch.screen import summary
from switchml.launch.throughput import SENT_AGAIN, Meter, Traffic
from switchml.outlook import Steps


def test_only_what_came_after_the_first_reading_counts() -> None:
    meter = Meter({"packets_received": 100, "elements_added": 4000}, 10.0, world_size=4)
    traffic = meter.read({"packets_received": 160, "elements_added": 4800}, 12.0)
    assert traffic.counters == {"packets_received": 60, "elements_added": 800}
    assert traffic.packet_rate == pytest.approx(30)
    assert traffic.elements == 200
    assert traffic.elements_per_second == pytest.approx(100)


def test_idle_time_does_not_lower_the_rate() -> None:
    meter = Meter({}, 0.0, world_size=1)
    meter.read({"elements_added": 0}, 5.0)
    meter.read({"elements_added": 100}, 6.0)
    traffic = meter.read({"elements_added": 100}, 60.0)
    assert traffic.active == pytest.approx(1.0)
    assert traffic.elements_per_second == pytest.approx(100)
    assert traffic.packet_rate == 0


def test_no_sums_is_no_rate() -> None:
    assert Meter({}, 0.0, 2).read({"elements_added": 0}, 1.0).elements_per_second == 0


def test_counters_are_named_in_the_order_of_the_table() -> None:
    traffic = Traffic(
        {"fault_lost": 2, "dropped_stale": 3, "dropped_duplicate": 1, "dropped_wrong_job": 0}, 2
    )
    assert list(traffic.named("dropped_").items()) == [("dropped_duplicate", 1), ("dropped_stale", 3)]
    assert traffic.named("fault_") == {"fault_lost": 2}


def test_what_workers_sent_again_is_judged() -> None:
    counters = {"packets_received": 10_000, "dropped_duplicate": 300, "dropped_stale": 200, SENT_AGAIN: 500}
    late = Traffic(counters, 2, sharing=8)
    assert [sentence.partition(":")[0] for sentence in late.sentences] == [
        "500 packets, 5.0%, were sent again for nothing, since the first had arrived",
        "The packets of 8 workers on other hosts pass one link to the switch",
    ]
    (lost,) = Traffic({**counters, "dropped_stale": 100}, 2).sentences
    assert "100 of them because the network had lost" in lost
    # Those that the switch doubled on purpose were not sent again.
    (doubled,) = Traffic({**counters, "fault_duplicated": 200}, 2).sentences
    assert "200 of them because the network had lost" in doubled
    assert Traffic({**counters, SENT_AGAIN: 99}, 2).sentences == []


def test_a_link_that_was_shared_once_is_remembered() -> None:
    meter = Meter({}, 0.0, world_size=8)
    assert meter.read({}, 1.0, 8.0).sharing == 8.0
    assert meter.read({}, 2.0, 0.0).sharing == 8.0  # the job has ended


def _shown(traffic: Traffic | None, exit_code: int = 0) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(summary(traffic, workers=4, seconds=12.34, exit_code=exit_code))
    return capture.get()


def test_the_summary_names_drops_and_faults() -> None:
    text = _shown(
        Traffic(
            {
                "packets_received": 1000,
                "bytes_received": 1_034_000,
                "elements_added": 256_000,
                "results_retransmitted": 5,
                "dropped_duplicate": 2,
                "fault_lost": 11,
            },
            world_size=4,
            active=2.0,
        )
    )
    for words in (
        "1.0 MB in 1,000 packets",
        "retransmissions",
        "dropped duplicate",
        "on purpose lost",
        "32,000",
        "12.3 s",
    ):
        assert words in text
    assert "exit code" not in text


def test_the_summary_says_when_nothing_is_known_or_nothing_went_through() -> None:
    assert "no switch answered" in _shown(None, exit_code=3)
    assert "exit code" in _shown(None, exit_code=3)
    assert "did the script ask" in _shown(Traffic({"packets_received": 0}, 4))


def _ranks_told(folder: Path, network: list[float]) -> RunPlan:
    for rank, seconds in enumerate(network):
        times = {"batches": 10, "seconds": 1.0, "input": 0.1, "network": seconds}
        (folder / f"{rank}.json").write_text(json.dumps(times))
    return RunPlan("train.py", workers=3)


def test_the_last_worker_waits_for_the_network_alone(tmp_path: Path) -> None:
    plan = _ranks_told(tmp_path, [0.3, 0.6, 0.6])
    steps = steps_of(tmp_path, plan)
    assert steps is not None
    assert (steps.seconds, steps.input, steps.network) == pytest.approx((0.1, 0.01, 0.03))
    assert (steps.ranks, steps.computing) == pytest.approx((0.02, 0.04))
    assert steps.best_network == pytest.approx(100 / 70)
    assert steps.one_more == pytest.approx(100 / (50 * 3 / 4 + 50))


def test_steps_of_a_worker_that_has_told_nothing_are_unknown(tmp_path: Path) -> None:
    plan = _ranks_told(tmp_path, [0.3, 0.6])
    assert steps_of(tmp_path, plan) is None


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (Steps(4, 0.1, 0.0, 0.06, 0.0), "2.50 times as fast, one more worker at most 1.09 times; larger batches"),
        (Steps(4, 0.1, 0.08, 0.0, 0.0), "1.00 times as fast, one more worker at most 1.25 times; neither helps"),
        (Steps(4, 0.1, 0.0, 0.0, 0.0, cores=2, here=4), "one more worker on this machine nothing, whose 2 cores 4 share."),
        (Steps(4, 0.1, 0.0, 0.0, 0.07), "0% waiting for the network, 70% waiting for other workers"),
    ],
)  # fmt: skip
def test_the_right_cure_is_told(steps: Steps, says: str) -> None:
    assert says in steps.sentence
    assert steps.sentence.startswith("A step (of one batch) took 100 ms: ")
