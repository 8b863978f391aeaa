"""Where machine code is kept, and until when it counts as current."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from switchml.protocol import jit

LEAF = "A = 1\n"
MIDDLE = "from switchml.room.leaf import (\n    A,\n)\n"
USER = "import os\n\nfrom switchml.room import middle\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a module that imports a module that imports a module."""
    room = tmp_path / "room"
    room.mkdir()
    for name, text in {"leaf": LEAF, "middle": MIDDLE, "user": USER, "other": LEAF, "__init__": ""}.items():
        (room / f"{name}.py").write_text(text)
    monkeypatch.setattr(jit, "_ROOT", tmp_path)
    return room


def stamp(file: Path) -> bytes:
    """The stamp as a new process would find it."""
    jit._source.cache_clear()
    jit.source_stamp.cache_clear()
    return jit.source_stamp(file)


@pytest.mark.parametrize(
    ("edited", "outdated"), [("leaf", True), ("middle", True), ("user", True), ("other", False)]
)
def test_code_is_current_until_a_file_that_it_reaches_is_edited(
    tree: Path, edited: str, outdated: bool
) -> None:
    before = stamp(tree / "user.py")
    assert stamp(tree / "user.py") == before
    with (tree / f"{edited}.py").open("a") as file:
        file.write("B = 2\n")
    assert (stamp(tree / "user.py") != before) == outdated


def test_the_stamp_of_the_switch_covers_what_its_loop_calls() -> None:
    from switchml.switch_emulator import pipeline

    reached = {path.relative_to(jit._ROOT).as_posix() for path in jit.reached_files(Path(pipeline.__file__))}
    assert {
        "protocol/header.py",
        "protocol/byteorder.py",
        "aggregation/slot_machine.py",
        "link/libc.py",
    } <= reached
    assert not any(name.startswith(("bench/", "torch_backend/")) for name in reached)


CACHED = """
from switchml.protocol import jit
from switchml.protocol.slots import tsi_distance
print(tsi_distance(5, 3), jit.cache_folder(tsi_distance))
print(sum(tsi_distance.stats.cache_hits.values()))
"""


@pytest.mark.skipif(jit.DISABLED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")
def test_a_second_process_finds_the_code_of_the_first(tmp_path: Path) -> None:
    def run() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", CACHED],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    value, folder, hits = run()
    assert (value, hits) == ("2", "0")
    assert folder.startswith(str(tmp_path))
    assert run() == ["2", folder, "1"]


def test_the_last_resort_is_a_folder_of_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = Path(jit._private_folder())
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert jit._private_folder() == str(folder)
    folder.chmod(0o770)
    with pytest.raises(PermissionError, match="this user alone"):
        jit._private_folder()


def test_a_link_that_somebody_laid_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"switchml-cache-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="this user alone"):
        jit._private_folder()


@pytest.mark.skipif(jit.DISABLED, reason="NUMBA_DISABLE_JIT is set: nothing is compiled")
def test_functions_compile_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit._CacheImpl, "_locator_classes", [])
    double = jit.compiled(lambda value: 2 * value)
    assert double(21) == 42
    assert jit.cache_folder(double) is None
