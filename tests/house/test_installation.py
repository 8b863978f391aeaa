"""The installed package is whole, and light to import."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import switchml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
installed = pytest.mark.skipif(
    os.environ.get("SWITCHML_TEST_INSTALLED") != "1",
    reason="not `make test`: the package may be an editable install",
)


def _folder(package: str) -> Path:
    """Where the source of a package lies."""
    room = max((name for name in ROOMS if f"{package}.".startswith(f"{name}.")), key=len)
    return ROOT / ROOMS[room] / package[len(room) + 1 :].replace(".", "/")


def _sources() -> dict[str, Path]:
    """Every source file of the rooms by where the wheel has to put it."""
    found = {}
    for name, folder in ROOMS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".pyi", ".proto") or path.name == "py.typed":
                found[f"{name.replace('.', '/')}/{path.relative_to(ROOT / folder)}"] = path
    return found


@installed
def test_tests_run_against_the_wheel() -> None:
    location = Path(switchml.__file__)
    assert "site-packages" in location.parts
    assert str(ROOT / "switchml") not in sys.path
    assert str(ROOT) not in sys.path


@installed
def test_the_wheel_holds_every_source_file() -> None:
    base = Path(switchml.__file__).parents[1]
    missing = [name for name in _sources() if not (base / name).is_file()]
    assert missing == [], "add their packages to pyproject.toml"


@installed
def test_the_wheel_holds_the_sources_as_they_are_now() -> None:
    base = Path(switchml.__file__).parents[1]
    stale = [name for name, path in _sources().items() if (base / name).read_bytes() != path.read_bytes()]
    assert stale == []


def test_every_package_of_the_tree_is_declared() -> None:
    declared = set(PROJECT["tool"]["setuptools"]["packages"])
    assert all((_folder(package) / "__init__.py").is_file() for package in declared)
    in_tree = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for name, folder in ROOMS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert in_tree == declared


def test_the_version_is_one() -> None:
    assert metadata.version("switchml") == switchml.__version__ == PROJECT["project"]["version"]


def _modules_after(statement: str) -> set[str]:
    """Names of the modules loaded by a statement in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["switchml", "switchml.cli"])
def test_imports_that_everybody_pays_for_are_light(module: str) -> None:
    heavy = {"numba", "numpy", "grpc", "torch", "matplotlib", "scapy", "google.protobuf"}
    assert _modules_after(f"import {module}") & heavy == set()


def test_import_torch_loads_no_part_of_the_backend_but_its_registration() -> None:
    pytest.importorskip("torch", reason="torch is in the extra `torch`")
    loaded = {
        name for name in _modules_after("import torch") if name.split(".")[0] in ("switchml", "numba", "grpc")
    }
    assert loaded == {"switchml", "switchml.torch_backend", "switchml.torch_backend.autoload"}


def test_versions_that_are_installed_by_make_are_all_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    assert "torch==2.13.0" in pins
    assert pins == sorted(pins, key=str.lower)
