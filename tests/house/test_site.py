"""The documentation site builds without a warning, its pictures are those of the code, and the README stands alone."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "site"))
    return importlib.import_module("build_site")


def test_it_builds_and_nothing_is_wrong(site: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="zensical is in the extra `docs`")
    pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocstrings-python is in the extra `docs`")
    assert site.build(tmp_path / "site") == []
    built = (tmp_path / "site" / "html" / "how-it-works" / "index.html").read_text()
    assert built.count("<svg") >= 4
    reference = (tmp_path / "site" / "html" / "python" / "index.html").read_text()
    assert 'id="switchml.worker.Worker.allreduce"' in reference
    assert "switchml.worker.Worker._" not in reference
    assert "--backend-for" in (tmp_path / "site" / "html" / "commands" / "index.html").read_text()


def test_what_a_page_links_to_is_looked_at(site: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "index.html").write_text(
        '<p id="there"><a href="#there"><a href="#gone"><a href="../b/"><a href="https://example.org/">'
        '<img src="https://example.org/x.png"><script src="../x.js"></script>'
    )
    (tmp_path / "site.css").write_text("a { background: url(https://example.org/y.png) }")
    assert sorted(site.wrong_links(tmp_path)) == [
        "a/index.html: links to #gone, and there is no such place",
        "a/index.html: links to ../b/, which is not there",
        "a/index.html: loads https://example.org/x.png",
        "site.css: loads https://example.org/y.png",
    ]


def test_pictures_are_those_of_the_code(site: ModuleType) -> None:
    drawn = importlib.import_module("pictures").pictures()
    folder = ROOT / "docs" / "pictures"
    assert {path.name: path.read_text() for path in folder.iterdir()} == drawn, "run: make docs"


def test_the_readme_is_a_page_that_an_index_can_show() -> None:
    page = (ROOT / "README.md").read_text()
    assert len(page.splitlines()) < 80
    assert [
        target for target in re.findall(r"\]\(([^)]+)\)", page) if not target.startswith("https://")
    ] == []
    named = re.findall(r"`((?:docs/)?[\w-]+\.md)`", page)
    assert "docs/start.md" in named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_published_machine_takes_the_late_packet_of_the_picture(site: ModuleType) -> None:
    """As docs/how-it-works.md says below it."""
    pictures = importlib.import_module("pictures")
    machine = pictures.slot_machine
    pool = machine.new_pool(1, 2)
    verdicts = [
        machine.admit_paper(pool.slots, chunk % 2, worker, 2, 1, chunk, pictures.SUM, 0, 0)
        for worker, chunk, _ in pictures.STORY
    ]
    assert pictures.STORY[6][:2] == (0, 0)
    assert verdicts[6] == machine.ADDED + machine.COMPLETE
