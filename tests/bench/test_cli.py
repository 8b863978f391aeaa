"""`switchml bench` as users type it: output, files, errors, and an end that leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from switchml.bench import cli
from switchml.bench.cli import bench_app
from switchml.bench.import_time import measure_import
from switchml.bench.plots import draw, draw_along
from switchml.bench.rank import reset_peak, resident
from switchml.bench.results import Measurement, with_ratios
from switchml.bench.systems.catalogue import Entry
from switchml.errors import SwitchMLError, UsageError

COMMAND = [sys.executable, "-m", "switchml.cli", "bench"]


@pytest.fixture
def with_fakes(fake: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake stands in for every system."""
    monkeypatch.setattr(cli, "_variants", lambda *_: [fake("ours", retransmissions=1)])
    monkeypatch.setattr(cli, "_baselines", lambda _: [fake("base")])


@pytest.mark.usefixtures("with_fakes")
def test_table_json_and_picture(tmp_path: Path) -> None:
    record, picture = tmp_path / "run.json", tmp_path / "run.png"
    arguments = [
        "allreduce",
        "--workers",
        "1,2",
        "--sizes",
        "4K:16K:4",
        "--rounds",
        "2",
        "--min-time",
        "0.01",
    ]
    done = CliRunner().invoke(bench_app, [*arguments, "--json", str(record), "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    assert done.output.count("base") >= 4
    assert "vs base" in done.output
    document = json.loads(record.read_text())
    assert document["plan"]["sizes"] == [4096, 16384]
    assert document["plan"]["variants"] == ["ours"]
    assert "token" not in document["plan"]
    assert {(one["workers"], one["size"], one["system"]) for one in document["results"]} == {
        (workers, size, name) for workers in (1, 2) for size in (4096, 16384) for name in ("ours", "base")
    }
    for one in document["results"]:
        assert one["algbw"] == pytest.approx(one["size"] / one["time"]["median"])
        assert len(one["rounds"]) == 2
        assert ("base" in one["ratios"]) == (one["system"] == "ours")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("with_fakes")
def test_every_combination_of_lists_is_measured_and_drawn(tmp_path: Path) -> None:
    record, picture = tmp_path / "run.json", tmp_path / "run.svg"
    arguments = [
        "allreduce",
        "--sizes",
        "4K,16K",
        "--rounds",
        "1",
        "--min-time",
        "0.01",
        "--json",
        str(record),
    ]
    done = CliRunner().invoke(
        bench_app, [*arguments, "--dtype", "float32,int32", "--window", "0,64", "--plot", str(picture)]
    )
    assert done.exit_code == 0, done.output
    assert "== dtype int32, window default" in done.output
    document = json.loads(record.read_text())
    assert document["plan"]["window"] == [0, 64]
    assert [
        (one["settings"]["dtype"], one["settings"]["window"], one["size"], one["system"])
        for one in document["results"]
    ] == [
        (dtype, window, size, system)
        for dtype in ("float32", "int32")
        for window in (0, 64)
        for size in (4096, 16384)
        for system in ("ours", "base")
    ]
    assert all(one["dtype"] == one["settings"]["dtype"] for one in document["results"])
    drawn = picture.read_text()
    assert "element type" in drawn
    assert "window 64" in drawn


@pytest.mark.usefixtures("with_fakes")
def test_json_on_standard_output_is_alone_there() -> None:
    done = CliRunner().invoke(
        bench_app, ["allreduce", "--sizes", "4K", "--rounds", "1", "--min-time", "0.01", "--json", "-"]
    )
    assert len(json.loads(done.stdout)["results"]) == 2
    assert "vs base" in done.stderr


def test_wrong_sums_make_the_command_fail(
    fake: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_variants", lambda *_: [fake("ours", fault="wrong")])
    done = CliRunner().invoke(
        bench_app, ["allreduce", "--sizes", "4K", "--rounds", "1", "--min-time", "0.01", "--baseline", "none"]
    )
    assert done.exit_code == 1
    assert "ours" in done.output


@pytest.mark.usefixtures("with_fakes")
def test_memory_shows_a_row_a_size() -> None:
    done = CliRunner().invoke(bench_app, ["memory", "--sizes", "1M,32M", "--json", "-"])
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)["results"]
    assert [(one["system"], one["size"]) for one in results] == [
        ("ours", 1 << 20),
        ("ours", 1 << 25),
        ("base", 1 << 20),
        ("base", 1 << 25),
    ]
    # The fake copies the tensor to float64 and pickles it: that must show.
    assert results[1]["growth"] > 2 * results[1]["size"]
    assert results[1]["growth"] > 8 * results[0]["growth"]


def test_the_peak_of_memory_is_seen_after_it_is_gone() -> None:
    reset_peak()
    before = resident()
    block = bytearray(b"x") * (64 << 20)
    del block
    after = resident()
    assert after.peak - before.total > 60 << 20
    assert after.total - before.total < 32 << 20


def test_quantize_reports_speed_and_ratio() -> None:
    done = CliRunner().invoke(
        bench_app, ["quantize", "--sizes", "64K", "--rounds", "2", "--min-time", "0.001", "--json", "-"]
    )
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)["results"]
    assert [one["kernel"] for one in results] == ["memcpy", "quantize", "dequantize"]
    assert results[0]["ratio"]["median"] == 1.0
    for one in results:
        assert one["speed"]["median"] > 0


def test_importing_torch_loads_nothing_heavy() -> None:
    pytest.importorskip("torch")
    times = measure_import(1)
    assert times.loaded == ()
    assert "switchml.torch_backend.autoload" in times.own
    assert len(times.own) <= 4


def test_a_picture_of_one_size_without_baseline(tmp_path: Path) -> None:
    one = Measurement("udp", 2, 4096, 1024, "float32", "sum", 1, (1.0, 2.0), None, {}, {}, None)
    draw(with_ratios([one], []), [], tmp_path / "one.svg")
    assert "<svg" in (tmp_path / "one.svg").read_text()


def test_a_picture_along_what_differs_from_run_to_run(tmp_path: Path) -> None:
    def run(seconds: float) -> list[Measurement]:
        ours, base = (
            Measurement(name, 2, 4096, 1024, "float32", "sum", 1, (time, 2 * time), None, {}, {}, 1e9)
            for name, time in (("udp", seconds), ("gloo", 3 * seconds))
        )
        return with_ratios([ours, base], ["gloo"])

    runs = {"none": run(0.1), "20 ms": run(0.2)}
    draw_along("round trip", runs, ["gloo"], tmp_path / "along.svg", conditions="links of 100 Mbit/s")
    assert "<svg" in (tmp_path / "along.svg").read_text()
    for one in (one for measured in runs.values() for one in measured):
        assert Measurement.from_json(json.loads(json.dumps(one.as_json()))) == one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["allreduce", "--sizes", "huge"], "not a size"),
        (["allreduce", "--workers", "two"], "numbers of workers"),
        (["allreduce", "--baseline", "nccl"], "choose from gloo"),
        (["allreduce", "--variants", "rdma"], "choose from auto"),
        (["allreduce", "--transport", "shm", "--no-multicast"], "belong to --transport udp"),
        (["allreduce", "--variants", "none", "--baseline", "none"], "nothing to measure"),
        (["allreduce", "--json", "/no/such/folder/x.json"], "folder does not exist"),
        (["allreduce", "--rate", "fast"], "not a rate"),
        (["allreduce", "--window", "64,many"], "window: 'many' is not a whole number"),
        (["allreduce", "--wire", "float32,int4"], "choose one of"),
        (["allreduce", "--transport", "udp", "--loss", "1.5"], "probability"),
        (["allreduce", "--transport", "shm", "--rate", "1gbit"], "one host only"),
        (["quantize", "--payload", "6"], "multiple of 4"),
    ],
)
def test_bad_arguments_are_refused_with_words(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(bench_app, arguments)
    assert isinstance(done.exception, SwitchMLError)
    assert words in str(done.exception)


def test_without_the_right_to_make_namespaces_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switchml.testbed.probe.why_unavailable", lambda **_: "network namespaces need root")
    done = CliRunner().invoke(bench_app, ["allreduce", "--transport", "udp", "--rate", "1gbit"])
    assert isinstance(done.exception, UsageError)
    assert "need root" in str(done.exception)


@pytest.fixture
def temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sml") as folder:
        yield Path(folder)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_and_no_file(
    ending: signal.Signals, temporary_folder: Path
) -> None:
    arguments = ["allreduce", "--sizes", "1M", "--rounds", "1000", "--variants", "none", "--baseline", "gloo"]
    pytest.importorskip("torch")
    run = subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, "TMPDIR": str(temporary_folder)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(temporary_folder.glob("*/store")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert run.poll() is None, run.stderr
    run.send_signal(ending)
    _, said = run.communicate(timeout=30)
    assert run.returncode != 0
    if ending != signal.SIGKILL:
        assert list(temporary_folder.iterdir()) == []
        assert b"Traceback" not in said
    # What is left of the ranks would fail this test in the end: conftest.py looks for them.
