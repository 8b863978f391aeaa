"""Which switch is below which, and what of a job is whose."""

from __future__ import annotations

from pathlib import Path

import pytest

from switchml.control.target import JobProgram, WorkerProgram
from switchml.control.topology import PlacedSwitch, Topology, read_topology
from switchml.errors import UsageError

CONTROL = ("10.0.0.1", 50551)
TREE = {"root": "", "middle": "root", "a": "middle", "b": "middle", "c": "root"}
DATA = {name: (f"10.0.0.{number}", 48864) for number, name in enumerate(TREE, 1)}
TOPOLOGY = Topology(tuple(PlacedSwitch(name, DATA[name], CONTROL, below) for name, below in TREE.items()))


def job(*at: str) -> JobProgram:
    workers = tuple(
        WorkerProgram(rank, "udp", f"10.1.0.{rank}", 5000, "", at=name) for rank, name in enumerate(at)
    )
    return JobProgram(3, 0, 64, 1024, False, workers, "239.83.1.3", 48864)


def shape(*at: str) -> dict[str, tuple[str, list[tuple[int, ...]], str]]:
    """By switch: the one above, the ranks of its members, and its group."""
    names = {where: name for name, where in DATA.items()}
    found = {}
    for name, program in TOPOLOGY.programs(job(*at), DATA).items():
        above = names[program.above] if program.above else ""
        assert [member.rank for member in program.workers] == list(range(len(program.workers)))
        for member in program.workers:
            assert member.is_switch == ((member.address, member.port) in names)
        found[name] = above, [member.ranks for member in program.workers], program.multicast_group
    return found


def test_a_job_on_two_racks() -> None:
    assert shape("a", "c", "a", "c") == {
        "root": ("", [(0, 2), (1, 3)], ""),
        "a": ("root", [(0,), (2,)], "239.83.1.3"),
        "c": ("root", [(1,), (3,)], "239.83.1.3"),
    }


def test_a_job_on_three_levels() -> None:
    assert shape("a", "b", "c") == {
        "root": ("", [(0, 1), (2,)], ""),
        "middle": ("root", [(0,), (1,)], ""),
        "a": ("middle", [(0,)], "239.83.1.3"),
        "b": ("middle", [(1,)], "239.83.1.3"),
        "c": ("root", [(2,)], "239.83.1.3"),
    }


def test_a_switch_with_workers_and_switches() -> None:
    assert shape("root", "a", "root") == {
        "root": ("", [(0,), (2,), (1,)], ""),
        "a": ("root", [(1,)], "239.83.1.3"),
    }


def test_who_would_add_up_nothing_is_left_out() -> None:
    assert shape("b", "b") == {"b": ("", [(0,), (1,)], "239.83.1.3")}
    assert set(shape("a", "b")) == {"middle", "a", "b"}


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "racks.toml"
    file.write_text(
        """
        [[switch]]
        name = "root"
        data = "10.0.0.1"
        [[switch]]
        name = "left"
        data = "10.0.0.2:48865"
        below = "root"
        control = "10.0.0.2"
        """
    )
    assert read_topology(file).switches == (
        PlacedSwitch("root", ("10.0.0.1", 48864)),
        PlacedSwitch("left", ("10.0.0.2", 48865), ("10.0.0.2", 50551), "root"),
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "says"),
        ("a = [", "racks.toml"),
        ("[[switch]]\nname = 'a'", "has name and data"),
        ("[[switch]]\nname = 'a'\ndata = '10.0.0.1'\nuplink = '1'", "has name and data"),
        ("[[switch]]\nname = 'a'\ndata = 5", "texts"),
        ("[[switch]]\nname = 'a'\ndata = '10.0.0.1:x'", "no address of a switch"),
        ("[[switch]]\nname = 'a'\ndata = '10.0.0.1'", "no switch of the topology has a `control`"),
        ("[[switch]]\nname = 'a'\ndata = '10.0.0.1'\nbelow = 'b'", "which is not in the topology"),
    ],
)
def test_files_that_say_something_else_are_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "racks.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=why):
        read_topology(file)


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({"a": "", "b": ""}, "this one 2"),
        ({"a": "b", "b": "a"}, "this one none"),
        ({"r": "", "a": "b", "b": "a"}, "switches a, b are below each other in a circle"),
        ({}, "a name of its own"),
    ],
)
def test_what_is_no_tree_is_refused(tree: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Topology(tuple(PlacedSwitch(name, DATA["a"], CONTROL, below) for name, below in tree.items()))
