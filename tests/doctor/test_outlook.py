"""What figures of a path come to, and what `switchml doctor` measures over links of a known rate and loss."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from switchml.outlook import Limit, SwitchPath, on_copies, on_the_link, outlook, rate
from switchml.testbed import why_unavailable

REASON = why_unavailable()
# 100 Mbit/s of Ethernet with nothing else wrong; 1024 bytes of 1100 on the wire are payload.
PATH = SwitchPath(
    switch="10.0.0.9:50551", goodput=92e6, round_trip=200e-6, loss_up=0.0, loss_down=0.0, window=512, payload=1024,
    largest_payload=16384, busy=0.2, local=False, software=True, link=100e6, mtu=1500,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "limit", "setting"),
    [
        ({}, Limit.OWN_LINK, ""),
        ({"mtu": 9000}, Limit.OWN_LINK, "SWITCHML_PAYLOAD=8192"),
        ({"mtu": 9000, "largest_payload": 1024}, Limit.OWN_LINK, ""),
        ({"link": 1e9}, Limit.BEYOND, ""),
        ({"link": None}, Limit.UNKNOWN, ""),
        ({"link": None, "busy": 1.1}, Limit.PROCESSOR, ""),
        ({"loss_down": 0.01}, Limit.LOSS, "SWITCHML_WINDOW=128"),
        # 64 packets of 8192 bits in 10 ms.
        (
            {"link": 1e9, "window": 64, "round_trip": 10e-3, "goodput": 50e6},
            Limit.WINDOW,
            "SWITCHML_WINDOW=256",
        ),
        ({"local": True, "link": None, "mtu": 0, "goodput": 9e9}, Limit.PROCESSOR, ""),
    ],
)
def test_what_limits_and_what_would_help(changes: dict[str, Any], limit: Limit, setting: str) -> None:
    path = replace(PATH, **changes)
    assert path.limit is limit
    assert setting in path.setting
    assert bool(setting) == bool(path.setting)


def test_a_software_switch_shares_its_link() -> None:
    said = outlook([PATH], 4)
    assert (said.against_ring, said.with_equal_links) == (1.5, 0.375)
    assert said.sentence == (
        "This host's link limits, at 92 Mbit/s of a tensor each way; 4 workers can be up to 2(n-1)/n = 1.50 times as fast as a "
        "ring where its link carries 368 Mbit/s, and 0.38 times where it is like this host's; one switch a host, or a switch "
        "with a faster link, would help."
    )


@pytest.mark.parametrize(
    ("packets", "sent_again", "needless", "words"),
    [
        (0, 0, 0, ""),
        (100_000, 900, 900, ""),
        # All of them came: nothing was lost.
        (
            353_772,
            15_648,
            15_648,
            "15,648 packets, 4.4%, were sent again for nothing, since the first had arrived",
        ),
        (100_000, 2_000, 1_950, "late and not lost"),
        # A doubled packet more than was sent again.
        (100_000, 2_000, 2_001, "late and not lost"),
        # Each loss of one of four workers makes the others send a copy each.
        (
            100_000,
            4_000,
            3_000,
            "4,000 packets, 4.0%, were sent again, 1,000 of them because the network had lost",
        ),
        (100, 200, 0, "200 packets, 100.0%, were sent again, 200 of them"),
    ],
)
def test_what_copies_tell(packets: int, sent_again: int, needless: int, words: str) -> None:
    told = on_copies(packets, sent_again, needless)
    assert words in told
    assert bool(words) == bool(told)


def test_workers_that_share_a_link_to_a_switch() -> None:
    assert on_the_link(0) == on_the_link(1) == ""
    assert "The packets of 8 workers on other hosts pass one link" in on_the_link(8)
    assert "unless it is 2.5 times as fast as theirs" in on_the_link(2.5)


def test_several_switches_share_the_load_and_the_slowest_counts() -> None:
    paths = [replace(PATH, switch=f"host{number}", goodput=(90 + number) * 1e6) for number in range(4)]
    said = outlook(paths, 4)
    assert (said.against_ring, said.with_equal_links, said.goodput) == (1.5, 1.5, 90e6)
    assert "on the way to host0" in said.sentence


def test_a_real_switch_and_one_on_this_host() -> None:
    real = outlook([replace(PATH, software=False)], 8)
    assert (real.against_ring, real.with_equal_links) == (1.75, 1.75)
    here = outlook([replace(PATH, local=True)], 2)
    assert (here.against_ring, here.with_equal_links) == (1.0, 1.0)
    assert "the switch is on this host" in here.sentence


@pytest.mark.parametrize(
    ("bits", "text"),
    [(999.0, "0.999 kbit/s"), (1.5e6, "1.5 Mbit/s"), (93.123e6, "93.1 Mbit/s"), (12e12, "12000 Gbit/s")],
)
def test_rates_for_people(bits: float, text: str) -> None:
    assert rate(bits) == text


@pytest.mark.namespaces
@pytest.mark.timeout(300)
@pytest.mark.skipif(REASON is not None, reason=f"no testbed here: {REASON}")
def test_the_rate_and_the_loss_of_a_link_are_found() -> None:
    from switchml.testbed.shape import LinkShape
    from switchml.testbed.star import HUB_ADDRESS, Star

    link, loss = 50_000_000, 0.05
    with Star(1, LinkShape(rate=link, loss=loss)) as star:
        switch = [sys.executable, "-P", "-m", "switchml.cli", "switch", "--host", HUB_ADDRESS, "--token", "t"]
        running = star.hub.popen(switch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert running.stdout is not None
            assert running.stdout.readline().startswith("switch ready")
            doctor = [
                sys.executable,
                "-P",
                "-m",
                "switchml.cli",
                "doctor",
                "--json",
                "--workers",
                "4",
                "--timeout",
                "60",
            ]
            doctor += ["--switch", f"{HUB_ADDRESS}:50551", "--token", "t"]
            asking = star.workers[0].popen(doctor, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stdout, stderr = asking.communicate(timeout=240)
        finally:
            running.terminate()
            running.communicate()
    assert stdout, stderr
    report = json.loads(stdout)
    [path] = report["paths"]
    # A bucket of bursts lets a few more through at first; what is lost has to go again.
    assert 0 < path["goodput"] < 1.05 * link
    # Thousands of packets: three standard deviations are less than a fifth of it.
    assert path["loss_up"] == pytest.approx(loss, rel=0.5)
    assert path["loss_down"] == pytest.approx(loss, rel=0.5)
    assert report["outlook"]["limit"] == path["limit"] == Limit.LOSS
    assert report["outlook"]["against_ring"] == 1.5
    assert not path["local"]
