"""The picture and the table of docs/architecture.md say what the imports say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import switchml

PAGE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
PACKAGE = Path(switchml.__file__).parent
NAMED_FOR_PYTHON = {"__init__.py", "__main__.py", "cli.py"}


def layers(page: str) -> list[list[str]]:
    """The rooms of the page's picture, line by line from the top."""
    picture = re.search(r"<!-- layers -->\n```text\n(.*?)```", page, re.DOTALL)
    assert picture is not None
    return [line.split() for line in picture[1].splitlines()]


def declared(page: str) -> dict[str, set[str]]:
    """What each room imports, by the page's table."""
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", page, re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", imports)) for room, imports in rows}


def room(module: str) -> str:
    """`switchml.worker.window` -> `worker`."""
    return module.split(".")[1]


def arrows(graph: grimp.ImportGraph) -> Iterator[tuple[str, str]]:
    """All imports between modules of the package, as (importer, imported)."""
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            yield importer, imported


def between_rooms(graph: grimp.ImportGraph) -> list[tuple[str, str]]:
    return [
        (importer, imported)
        for importer, imported in arrows(graph)
        if "switchml" not in (importer, imported) and room(importer) != room(imported)
    ]


def against_the_order(graph: grimp.ImportGraph, order: list[list[str]]) -> list[str]:
    """Imports that do not go down the picture, in words."""
    depth = {name: line for line, names in enumerate(order) for name in names}
    return [
        f"{importer} imports {imported}"
        for importer, imported in between_rooms(graph)
        if depth[room(importer)] >= depth[room(imported)]
    ]


def circle(graph: grimp.ImportGraph) -> list[str]:
    """Modules that import each other in a circle, whether at their top or inside a function; none: []."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for importer, imported in arrows(graph):
        if not imported.startswith(f"{importer}."):  # a package that imports its own modules
            sorter.add(importer, imported)
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("switchml", cache_dir=None)


def test_every_room_stands_in_the_picture_once(graph: grimp.ImportGraph) -> None:
    rooms = {room(module) for module in graph.modules if module != "switchml"}
    assert Counter(name for line in layers(PAGE) for name in line) == Counter(rooms)


def test_imports_go_down_the_picture(graph: grimp.ImportGraph) -> None:
    assert against_the_order(graph, layers(PAGE)) == []


def test_an_import_against_the_order_is_found(graph: grimp.ImportGraph) -> None:
    planted = grimp.build_graph("switchml", cache_dir=None)
    planted.add_import(importer="switchml.worker.window", imported="switchml.switch_emulator.tables")
    planted.add_import(importer="switchml.protocol.header", imported="switchml.link.ring")
    assert sorted(against_the_order(planted, layers(PAGE))) == [
        "switchml.protocol.header imports switchml.link.ring",
        "switchml.worker.window imports switchml.switch_emulator.tables",
    ]


def test_the_table_says_what_each_room_imports(graph: grimp.ImportGraph) -> None:
    found: dict[str, set[str]] = {room(module): set() for module in graph.modules if module != "switchml"}
    for importer, imported in between_rooms(graph):
        found[room(importer)].add(room(imported))
    assert declared(PAGE) == found


def test_no_modules_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circle(graph) == []


def test_a_circle_is_found() -> None:
    planted = grimp.build_graph("switchml", cache_dir=None)
    planted.add_import(importer="switchml.link.ring", imported="switchml.link.memory")
    planted.add_import(importer="switchml.link.memory", imported="switchml.link.ring")
    assert {"switchml.link.ring", "switchml.link.memory"} <= set(circle(planted))


def test_a_file_name_means_one_thing() -> None:
    # What is shipped is no module: in a checkout it is behind links, which rglob does not follow.
    modules = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "shipped" not in path.parents]
    names = Counter(path.name for path in modules if path.name not in NAMED_FOR_PYTHON)
    linked = Counter(
        path.name
        for link in PACKAGE.iterdir()
        if link.is_symlink()
        for path in link.rglob("*.py")
        if path.name not in NAMED_FOR_PYTHON
    )
    assert [name for name, count in (names + linked).items() if count > 1] == []
