"""Which MPI is taken of several, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from switchml.bench.systems import catalogue
from switchml.bench.systems.catalogue import BASELINES
from switchml.bench.systems.mpi_installations import INTEL_MPI, MPICH, OPEN_MPI, installation_of
from switchml.errors import UsageError
from switchml.launchers import mpi_variable


def install(folder: Path, says: str, library: str = "") -> Path:
    """An mpiexec that says its version, and a library."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").mkdir()
    program = folder / "bin" / "mpiexec"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    if library:
        (folder / "lib" / library).touch()
        (folder / "lib" / "libmpi.so").touch()
        (folder / "lib" / f"{library}.0.0").touch()
    return folder


def test_each_is_known_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = install(tmp_path / "first", "HYDRA build details:", "libmpi.so.12")
    second = install(
        tmp_path / "second", "Intel(R) MPI Library for Linux* OS, Version 2021.19", "libmpi.so.12"
    )
    third = install(tmp_path / "third", "mpiexec (Open MPI) 5.0.11")
    monkeypatch.setenv("SWITCHML_MPI", f"{first}:{second}")
    monkeypatch.setenv("PATH", str(third / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = {make: installation_of(make) for make in (MPICH, INTEL_MPI, OPEN_MPI)}
    assert {make.name: one.mpiexec for make, one in found.items()} == {
        "MPICH": f"{first}/bin/mpiexec",
        "Intel MPI": f"{second}/bin/mpiexec",
        "Open MPI": f"{third}/bin/mpiexec",
    }
    # Another environment's library has to be named to mpi4py; it finds the one on PATH by itself.
    assert found[MPICH].environment == {"MPI4PY_LIBMPI": f"{first}/lib/libmpi.so.12"}
    assert found[OPEN_MPI].environment == {}


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHML_MPI", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    with pytest.raises(
        UsageError, match="MPICH is not installed here: pip install mpich, or beside another MPI"
    ):
        BASELINES["mpich"].check_usable("float32", "sum", namespaces=False)
    with pytest.raises(UsageError, match="Intel MPI is not installed here: pip install impi-rt"):
        BASELINES["impi"].check_usable("float32", "sum", namespaces=False)
    monkeypatch.setattr(catalogue, "_has_backend", lambda name: name != "ucc")
    with pytest.raises(UsageError, match="ucc needs a torch that is built with UCC"):
        BASELINES["ucc"].check_usable("float32", "sum", namespaces=False)
    monkeypatch.setenv("SWITCHML_MPI", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"SWITCHML_MPI names .*nowhere, and there is no"):
        installation_of(OPEN_MPI)


def test_the_ranks_variable_is_the_mpis() -> None:
    assert mpi_variable({"PMI_RANK": "1", "RANK": "7"}) == "PMI_RANK"
    assert mpi_variable({"OMPI_COMM_WORLD_RANK": "1"}) == "OMPI_COMM_WORLD_RANK"
    with pytest.raises(UsageError, match="no MPI has started this process"):
        mpi_variable({"RANK": "7", "WORLD_SIZE": "8"})
