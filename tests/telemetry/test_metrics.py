"""What Prometheus is told, and the dashboard that asks for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from watched_switch import counters, job, member, slots, status

from switchml.telemetry.events import counters_message, jobs_message, slots_message, switch_message
from switchml.telemetry.picture import Picture
from switchml.telemetry.prometheus import metric_names, registry

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana_dashboard.json"
SWITCH = "10.0.0.9:50551"
OF_JOB = {"switch": SWITCH, "job": "digits-0", "number": "3"}


def samples(picture: Picture, now: float = 0.0) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(registry(picture, lambda: now)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def picture() -> Picture:
    made = Picture()
    one = job(
        counters=counters(elements_added=2000), members=(member(0), member(1, sent_again=5, packet=None))
    )
    there = status(one, packets_received=77)
    for message in (
        switch_message(there), jobs_message(there), counters_message(there), slots_message({3: slots()}),
    ):  # fmt: skip
        made.take({"version": 1, "switch": SWITCH, "time": 0.0, "number": 0, **message})
    return made


def value(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_what_prometheus_reads() -> None:
    found = samples(picture())
    assert value(found, "switchml_up", switch=SWITCH) == 1
    assert value(found, "switchml_packets_received_total", switch=SWITCH) == 77
    assert value(found, "switchml_free_slots", switch=SWITCH) == 16128
    assert value(found, "switchml_job_elements_added_total", **OF_JOB) == 2000
    assert value(found, "switchml_worker_round_trip_seconds", **OF_JOB, rank="0") == 0.0015
    assert value(found, "switchml_worker_packets_sent_again_total", **OF_JOB, rank="1") == 5
    assert ("switchml_worker_silence_seconds", frozenset({**OF_JOB, "rank": "1"}.items())) not in found
    assert value(found, "switchml_worker_late_ratio", **OF_JOB, rank="1") == 0.1
    assert {name for name, _ in found} <= set(metric_names())


def test_a_switch_that_is_silent_is_down() -> None:
    assert value(samples(picture(), now=60.0), "switchml_up", switch=SWITCH) == 0
    assert samples(Picture()) == {}


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    asked: set[str] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            patterns = re.findall(r'__name__=~"([^"]+)"', target["expr"])
            for pattern in patterns:
                assert any(re.fullmatch(pattern, name) for name in metric_names())
            asked.update(re.findall(r"\bswitchml_\w+(?=[{ ])", target["expr"]))
    assert len(asked) >= 10
    assert asked <= set(metric_names())
