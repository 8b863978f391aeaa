"""Makes what is published, a source archive and a wheel of it, and checks both.

    python scripts/release/make_dist.py dist              # make dist
    python scripts/release/make_dist.py dist --release    # also: CHANGELOG.md has a section of this version

Two builds of one commit are the same bytes, whoever builds: times are those of SOURCE_DATE_EPOCH, else of the commit; owners,
modes and order are fixed. The wheel is made from the archive, so that whoever has the archive alone can make it.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import switchml

ROOT = Path(__file__).parents[2]


def commit_time() -> str:
    """Seconds since 1970 of the commit that is checked out."""
    asked = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return asked.stdout.strip()


def build(out: Path, epoch: str) -> tuple[Path, Path]:
    """The archive and the wheel, in `out`; `epoch`: seconds since 1970 that are told of every file."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "source")
        # Neither build folders nor what setuptools has left behind: it would take modules for present that are gone.
        shutil.copytree(ROOT, source, symlinks=True, ignore=_left_out)
        _setuptools("sdist", source, scratch, epoch)
        (made,) = Path(scratch).glob("*.tar.gz")
        archive = out / made.name
        archive.write_bytes(same_bytes(made.read_bytes(), int(epoch)))
        with tarfile.open(archive) as opened:
            opened.extractall(scratch, filter="data")
        wheel = _setuptools("wheel", Path(scratch, made.name.removesuffix(".tar.gz")), str(out), epoch)
    return archive, out / wheel


def _left_out(folder: str, names: list[str]) -> set[str]:
    top = {"build", "dist", "docs", "tests"} if Path(folder) == ROOT else set[str]()
    return {
        name
        for name in names
        if name in top or name.startswith(".") or name.endswith((".egg-info", "__pycache__"))
    }


def _setuptools(kind: str, source: Path, out: str, epoch: str) -> str:
    program = f"from setuptools import build_meta; print(build_meta.build_{kind}({out!r}))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        capture_output=True,
        text=True,
        umask=0o022,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout.splitlines()[-1]


def same_bytes(archive: bytes, epoch: int) -> bytes:
    """A source archive without what differs from build to build: times, owners, modes, order."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as old,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda each: each.name):
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.size, plain.mtime = member.type, member.size, epoch
            plain.mode = 0o755 if member.isdir() else 0o644
            new.addfile(plain, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(packed.getvalue(), mtime=0)


def has_section(changelog: str, version: str) -> bool:
    """Whether the newest section of CHANGELOG.md is that of the version, with a date."""
    newest = re.search(r"^## (.*)$", changelog, re.M)
    return (
        newest is not None
        and re.fullmatch(rf"\[?{re.escape(version)}\]? - \d{{4}}-\d\d-\d\d", newest[1]) is not None
    )


def main(arguments: Sequence[str]) -> int:
    """Build, check, and say what was made; not 0 if something is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--release", action="store_true")
    options = parser.parse_args(arguments)
    told = has_section((ROOT / "CHANGELOG.md").read_text(), switchml.__version__)
    if options.release and not told:
        print(
            f"CHANGELOG.md does not begin with a section '## {switchml.__version__} - YEAR-MONTH-DAY'",
            file=sys.stderr,
        )
        return 1
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    files = build(options.out.resolve(), os.environ.get("SOURCE_DATE_EPOCH") or commit_time())
    for checks, named in ((["twine", "check", "--strict"], files), (["check_wheel_contents"], files[1:])):
        if subprocess.run([sys.executable, "-m", *checks, *map(str, named)]).returncode:
            return 1
    subprocess.run(["sha256sum", *(file.name for file in files)], cwd=options.out, check=True)
    if not told:
        print(f"not to be published: CHANGELOG.md has no section of {switchml.__version__} yet")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
