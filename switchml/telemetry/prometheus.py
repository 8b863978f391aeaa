"""The picture of switches as metrics for Prometheus (prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from typing_extensions import override

from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.telemetry.picture import Picture, SwitchPicture, readable_name

_SWITCH = ("switch",)
_JOB = ("switch", "job", "number")
_WORKER = (*_JOB, "rank")


class _Gauge(NamedTuple):
    name: str
    meaning: str
    labels: tuple[str, ...]


_UP = _Gauge("switchml_up", "whether messages come from the switch", _SWITCH)
_FREE = _Gauge("switchml_free_slots", "slots of no job", _SWITCH)
_UPTIME = _Gauge("switchml_uptime_seconds", "since the switch began", _SWITCH)
_JOBS = _Gauge("switchml_jobs", "jobs that there are", _SWITCH)
_RUNNING = _Gauge("switchml_job_running", "1 once all ranks are ready", _JOB)
_WINDOW = _Gauge("switchml_job_slots", "slots of the job", _JOB)
_TRIP = _Gauge("switchml_worker_round_trip_seconds", "smoothed, of a worker that sends packets", _WORKER)
_FLIGHT = _Gauge("switchml_worker_window_packets", "packets that a worker lets be unanswered", _WORKER)
_LATE = _Gauge("switchml_worker_late_ratio", "of the slots that wait, the share that waits for it", _WORKER)
_HEARD = _Gauge("switchml_worker_silence_seconds", "since its last packet", _WORKER)
_AGAIN = _Gauge("switchml_worker_packets_sent_again_total", "packets that a worker sent again", _WORKER)


class Metrics(Collector):
    """Collects from a picture, which another thread may bring up to date meanwhile under the same lock.

    Args:
        picture: to collect from.
        now: by the clock of `Picture.take`.
    """

    def __init__(self, picture: Picture, now: Callable[[], float]) -> None:
        self._picture, self._now = picture, now

    @override
    def collect(self) -> Iterator[Metric]:
        found = {gauge: _family(gauge) for gauge in _GAUGES}
        counted = {
            prefix: {
                counter.name: CounterMetricFamily(f"{prefix}_{counter.name}", counter.meaning, labels=labels)
                for counter in SWITCH_COUNTERS
            }
            for prefix, labels in (("switchml", _SWITCH), ("switchml_job", _JOB))
        }
        for switch in list(self._picture.switches.values()):
            self._add(switch, found, counted)
        yield from found.values()
        for families in counted.values():
            yield from families.values()

    def _add(
        self, switch: SwitchPicture, found: dict[_Gauge, Any], counted: dict[str, dict[str, Any]]
    ) -> None:
        of_switch = [switch.address]
        found[_UP].add_metric(of_switch, float(self._now() - switch.heard < _SILENT))
        found[_JOBS].add_metric(of_switch, len(switch.jobs))
        if switch.about:
            found[_FREE].add_metric(of_switch, switch.about["free_slots"])
            found[_UPTIME].add_metric(of_switch, switch.about["uptime"])
        for name, value in switch.meter.counters.items():
            if name in counted["switchml"]:
                counted["switchml"][name].add_metric(of_switch, value)
        for job in list(switch.jobs.values()):
            status = job.status
            of_job = [switch.address, readable_name(status["name"]), str(status["job_number"])]
            found[_RUNNING].add_metric(of_job, float(status["state"] == "running"))
            found[_WINDOW].add_metric(of_job, status["window"])
            for name, value in job.meter.counters.items():
                if name in counted["switchml_job"]:
                    counted["switchml_job"][name].add_metric(of_job, value)
            for rank, worker in list(job.workers.items()):
                if not worker.status:
                    continue
                of_worker = [*of_job, str(rank)]
                found[_TRIP].add_metric(of_worker, worker.status["round_trip"])
                found[_FLIGHT].add_metric(of_worker, worker.status["in_flight"])
                found[_LATE].add_metric(of_worker, worker.late)
                found[_AGAIN].add_metric(of_worker, worker.status["sent_again"])
                if worker.status["packet"] is not None:
                    found[_HEARD].add_metric(of_worker, worker.status["packet"])


_SILENT = 10.0
_GAUGES = (_UP, _FREE, _UPTIME, _JOBS, _RUNNING, _WINDOW, _TRIP, _FLIGHT, _LATE, _HEARD, _AGAIN)


def _family(gauge: _Gauge) -> Metric:
    kind = CounterMetricFamily if gauge.name.endswith("_total") else GaugeMetricFamily
    return kind(gauge.name, gauge.meaning, labels=gauge.labels)


def metric_names() -> list[str]:
    """All that `Metrics` tells, as Prometheus stores them."""
    names = [gauge.name for gauge in _GAUGES]
    for prefix in ("switchml", "switchml_job"):
        names += [f"{prefix}_{counter.name}_total" for counter in SWITCH_COUNTERS]
    return names


def registry(picture: Picture, now: Callable[[], float]) -> CollectorRegistry:
    """Of these metrics alone: nothing of this process, which only reads."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Metrics(picture, now))
    return made
