"""Bulk traffic of TCP between namespaces. Needs root; skipped with the reason elsewhere."""

from __future__ import annotations

import threading
import time

import pytest

from switchml.testbed import LinkShape, TestbedError, why_unavailable

REASON = why_unavailable()
pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.namespaces,
    pytest.mark.skipif(REASON is not None, reason=f"no testbed here: {REASON}"),
]

if REASON is None:
    from switchml.testbed.bulk_flow import BulkFlow
    from switchml.testbed.star import Star

RATE = 50_000_000
ENOUGH = 200_000


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "switchml-bulk-flow"]


@pytest.mark.parametrize("control", ["", "reno"])
def test_bytes_flow_both_ways_within_the_rate_of_the_link_and_stop_at_the_end(control: str) -> None:
    shape = LinkShape(rate=RATE)
    with Star(1, shape) as star:
        started = time.monotonic()
        flow = BulkFlow(star.workers[0], star.hub, star.hub_address, control)
        while min(flow.received) < ENOUGH:
            assert time.monotonic() - started < 30
            time.sleep(0.01)
        there, back = flow.received
        elapsed = time.monotonic() - started
        assert max(there, back) <= RATE / 8 * elapsed + shape.burst + shape.queue
        assert threads() == ["switchml-bulk-flow"] * 4
        flow.close()
        flow.close()
        assert threads() == []
        ended = flow.received
        time.sleep(0.05)
        assert flow.received == ended


def test_an_unknown_congestion_control_is_refused_with_those_there_are() -> None:
    with Star(1) as star, pytest.raises(TestbedError, match=r"'fastest'.*there are .*reno"):
        BulkFlow(star.workers[0], star.hub, star.hub_address, "fastest")
    assert threads() == []


def test_an_end_that_cannot_be_reached_is_named() -> None:
    with Star(1) as star, pytest.raises(TestbedError, match=r"a flow of TCP to 10\.99\.0\.1"):
        BulkFlow(star.workers[0], star.hub, "10.99.0.1")
    assert threads() == []
