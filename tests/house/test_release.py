"""What is published: two builds are the same bytes, and both parts hold what they should."""

from __future__ import annotations

import importlib
import os
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import switchml

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "release"))
    return importlib.import_module("make_dist")


def test_two_builds_are_the_same_bytes_whoever_builds(release: ModuleType, tmp_path: Path) -> None:
    built = []
    for name, mask in (("first", 0o022), ("second", 0o077)):
        before = os.umask(mask)
        try:
            (tmp_path / name).mkdir()
            built.append(release.build(tmp_path / name, "1700000000"))
        finally:
            os.umask(before)
    (archive, wheel), other = built
    assert [file.read_bytes() for file in other] == [archive.read_bytes(), wheel.read_bytes()]
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
    top = f"switchml-{switchml.__version__}"
    assert {f"{top}/{name}" for name in ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")} <= {
        member.name for member in members
    }
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(1700000000, 0, "")}
    assert [member.name for member in members if member.issym()] == [], "links are what they lead to"
    with zipfile.ZipFile(wheel) as opened_wheel:
        names = set(opened_wheel.namelist())
        metadata = opened_wheel.read(f"{top}.dist-info/METADATA").decode()
    assert "switchml/py.typed" in names, "which counts for all packages below"
    there = {
        os.path.relpath(os.path.join(folder, file), ROOT)
        for folder, _, files in os.walk(ROOT / "switchml", followlinks=True)
        for file in files
        if file.endswith((".py", ".pyi", ".proto", ".json", ".txtpb", ".p4", ".js", ".css", ".html"))
    }
    assert there <= names
    assert {"switchml/worker/window.py", "switchml/control/p4runtime/programs/switchml_64.json"} <= there
    assert {name.split("/")[0] for name in names} == {"switchml", f"{top}.dist-info"}
    assert f"Version: {switchml.__version__}\n" in metadata
    assert (ROOT / "README.md").read_text() in metadata


def test_the_changelog_keeps_its_form() -> None:
    sections = re.findall(r"^## (.*)$", CHANGELOG, re.M)
    assert all(
        each == "Unreleased" or re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", each) for each in sections
    )
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for section in CHANGELOG.split("\n## ")[1:]:
        found = Counter(re.findall(r"^### (.*)$", section, re.M))
        assert found, "a section has entries"
        assert set(found) <= kinds
        assert set(found.values()) == {1}, "each kind stands once in a section"


@pytest.mark.parametrize(
    ("newest", "told"),
    [
        ("1.2.3 - 2026-12-01", True),
        ("[1.2.3] - 2026-12-01", True),
        ("Unreleased", False),
        ("1.2.4 - 2026-12-01", False),
    ],
)
def test_a_release_has_a_section(release: ModuleType, newest: str, told: bool) -> None:
    assert release.has_section(f"# Changes\n\n## {newest}\n\n## 1.2.3 - 2025-01-01\n", "1.2.3") == told
