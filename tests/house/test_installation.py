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
from switchml.control.p4runtime.program import compiled_programs

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINKED = ("worker", "switch_emulator", "torch_backend")
"""Rooms that stand at the top of the tree, and by a link where they are imported."""
installed = pytest.mark.skipif(
    os.environ.get("SWITCHML_TEST_INSTALLED") != "1",
    reason="not `make test`: the package may be an editable install",
)


def _sources() -> list[str]:
    """Every source file, by where it is imported from: `switchml/...`."""
    return [
        os.path.relpath(os.path.join(folder, name), ROOT)
        for folder, _, names in os.walk(ROOT / "switchml", followlinks=True)
        for name in names
        if name.endswith((".py", ".pyi", ".proto")) or name == "py.typed"
    ]


@pytest.mark.parametrize("room", LINKED)
def test_the_path_that_is_imported_is_the_path_that_is_read(room: str) -> None:
    assert os.readlink(ROOT / "switchml" / room) == f"../{room}"
    assert (ROOT / room / "__init__.py").is_file()


def test_the_p4_programs_of_the_package_are_those_of_p4() -> None:
    found = compiled_programs()
    assert sorted(path.name for path in found.iterdir()) == sorted(
        f"switchml_{elements}.{kind}" for elements in (64, 256) for kind in ("json", "p4info.txtpb")
    )
    assert all(
        path.read_bytes() == (ROOT / "p4" / "build" / path.name).read_bytes() for path in found.iterdir()
    )


@installed
def test_tests_run_against_the_wheel() -> None:
    location = Path(switchml.__file__)
    assert "site-packages" in location.parts
    assert str(ROOT / "switchml") not in sys.path
    assert str(ROOT) not in sys.path


@installed
def test_the_wheel_holds_every_source_file_as_it_is_now() -> None:
    base = Path(switchml.__file__).parents[1]
    sources = _sources()
    assert "switchml/worker/window.py" in sources
    differing = [
        name
        for name in sources
        if not (base / name).is_file() or (base / name).read_bytes() != (ROOT / name).read_bytes()
    ]
    assert differing == []


def test_the_version_is_one() -> None:
    assert metadata.version("switchml") == switchml.__version__
    assert PROJECT["tool"]["setuptools"]["dynamic"] == {"version": {"attr": "switchml.__version__"}}


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
    registration = {"autoload", "backend_name"}
    assert loaded == {"switchml", "switchml.torch_backend"} | {
        f"switchml.torch_backend.{one}" for one in registration
    }


def test_versions_that_are_installed_by_make_are_all_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    assert "torch==2.13.0" in pins
    assert pins == sorted(pins, key=str.lower)
