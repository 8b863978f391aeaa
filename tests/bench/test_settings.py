"""What can be varied: how it is written, combined, called and laid along an axis."""

from __future__ import annotations

from typing import Any

import pytest

from switchml.bench.findings import Finding, arrange, base_of, places_of
from switchml.bench.settings import (
    SETTINGS,
    called,
    conditions,
    parse_values,
    plan_fields,
    points,
    several,
    show_time,
)
from switchml.errors import UsageError


def defaults(**written: Any) -> dict[str, list[Any]]:
    return {name: parse_values(name, written.get(name, one.default)) for name, one in SETTINGS.items()}


@pytest.mark.parametrize(
    ("name", "written", "values"),
    [
        ("workers", "2,4", [2, 4]),
        ("workers", 8, [8]),
        ("workers", [2, 2, 4], [2, 4]),
        ("sizes", "1K:4K:2,1M", [1024, 2048, 4096, 1 << 20]),
        ("sizes", ["64K", "1K:2K:2"], [65536, 1024, 2048]),
        ("loss", "0, 0.1%,0.01", [0.0, 0.001, 0.01]),
        ("loss", [0.5], [0.5]),
        ("delay", "none,20ms", [0, 0.02]),
        ("rate", ["none", "1gbit"], [0, 10**9]),
        ("window", [0, 64], [0, 64]),
        ("beside", "none,tcp", ["", "tcp"]),
    ],
)
def test_values_are_read(name: str, written: Any, values: list[Any]) -> None:
    assert parse_values(name, written) == values


@pytest.mark.parametrize(
    ("name", "written", "words"),
    [
        ("workers", "two", "workers: 'two' .* numbers of workers"),
        ("workers", 0, "at least 1"),
        ("window", "-4", "at least 1"),
        ("loss", "1.0", "below 1"),
        ("loss", "5x", "not a probability"),
        ("line_rate", "fast", "line-rate: 'fast' is not a rate"),
        ("sizes", [], "no value is given"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, written: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_values(name, written)


def test_every_combination_the_last_setting_first() -> None:
    values = {"workers": [2, 4], "rate": [7], "wire": ["float32", "int8"]}
    assert several(values) == ["workers", "wire"]
    assert [tuple(point.values()) for point in points(values)] == [
        (2, 7, "float32"), (2, 7, "int8"), (4, 7, "float32"), (4, 7, "int8")
    ]  # fmt: skip


def test_defaults_are_no_testbed_and_a_link_of_any_kind_is_one() -> None:
    (plain,) = points(defaults(sizes="1M"))
    assert plan_fields(plain)["shape"] is None
    (lossy,) = points(defaults(sizes="1M", delay="20ms", queue="64K"))
    shape = plan_fields(lossy)["shape"]
    assert (shape.delay, shape.queue, shape.rate) == (0.01, 65536, 0)
    assert "delay" not in plan_fields(lossy)


def test_words() -> None:
    values = defaults(workers=4, sizes="16M", rate="100mbit", loss="0.1%", wire="float32,int8", queue="64K")
    assert conditions(values) == (
        "4 workers, 16 MiB, float32, links of 100 Mbit/s, 0.1 % of packets lost on every link, each way, queues of 64 KiB"
    )
    first = next(points(values))
    assert called(first, ["workers", "sizes", "loss", "rate"]) == (
        "4 workers, size 16M, loss 0.1 %, rate 100 Mbit/s"
    )
    assert [show_time(seconds) for seconds in (2.5, 0.02, 0.0005)] == ["2.5 s", "20 ms", "500 us"]


def test_places_are_values_or_at_equal_distances() -> None:
    assert [place.at for place in places_of("sizes", [1024, 4096]).values()] == [1024.0, 4096.0]
    assert base_of("sizes", [1024, 4096]) == 2
    # The default of a window has no number, and none lies on no logarithm.
    assert [tuple(place) for place in places_of("window", [0, 64]).values()] == [(0, "default"), (1, "64")]
    assert base_of("window", [0, 64]) == 0
    assert [place.text for place in places_of("loss", [0.0, 0.01]).values()] == ["none", "1 %"]


def test_what_means_nothing_to_a_baseline_does_not_part_it() -> None:
    def at(wire: str, workers: int) -> tuple[dict[str, Any], list[Finding]]:
        ours = Finding("udp", False, {"time": [float(workers)]}, {"time": 0.5})
        return {"wire": wire, "workers": workers}, [ours, Finding("gloo", True, {"time": [10.0 * workers]})]

    found = [at(wire, workers) for workers in (2, 4) for wire in ("float32", "int8")]
    varied = ["workers", "wire"]
    along = arrange(found, "workers", "", varied, places_of("workers", [2, 4]))[""]
    assert list(along) == ["udp, wire float32", "gloo", "udp, wire int8"]
    assert along["gloo"].samples["time"] == {2.0: [20.0, 20.0], 4.0: [40.0, 40.0]}
    assert along["udp, wire int8"].limits == {"time": {2.0: 0.5, 4.0: 0.5}}
    columns = arrange(found, "wire", "workers", varied, places_of("wire", ["float32", "int8"]))
    assert list(columns) == ["2 workers", "4 workers"]
    gloo = columns["4 workers"]["gloo"]
    assert gloo.level
    assert gloo.samples["time"][0.0] == gloo.samples["time"][1.0] == [40.0, 40.0]
    assert gloo.spreads("time", 2.0)[0.0].median == 80.0
