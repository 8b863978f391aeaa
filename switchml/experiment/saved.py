"""An experiment as a file: what is measured, what is varied, what is drawn."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from switchml.bench.findings import QUANTITIES, SPEED_UP, TIME, Quantity
from switchml.bench.settings import SETTINGS, Values, parse_values, points, several
from switchml.bench.timed_collectives import COLLECTIVES
from switchml.errors import UsageError

FIGURES = Path(__file__).parent / "figures"
PROGRAM = "program"
"""What is measured where it is no collective."""

_KEYS = ("title", "measure", "x", "y", "columns", PROGRAM, "settings", "small", "arguments", "quantities")
_NOT_OF_PROGRAMS = ("sizes", "dtype", "op", "line_rate", "jobs", "beside")
_COLLECTIVE: dict[str, Any] = {
    "variants": ["auto"],
    "baseline": ["gloo"],
    "rounds": 5,
    "iterations": 0,
    "warmup": 3,
    "min_time": 0.1,
    "check": True,
    "switch": "",
    "timeout": 300.0,
}
_PROGRAM: dict[str, Any] = {
    "variants": ["auto"],
    "baseline": ["gloo"],
    "rounds": 3,
    "seed": 1,
    "timeout": 3600.0,
}
"""Options that are not combined, with their defaults; a program's rounds are seeds."""


@dataclass(frozen=True)
class Experiment:
    """What a file says, with what the command line changed.

    Attributes:
        name: of it.
        title: of its figure.
        measure: a collective, or `PROGRAM`.
        x: the setting along the bottom of the figure.
        columns: the setting of which each value has a column; "" = none.
        y: the names of what is drawn, a row each.
        values: of every setting, and of a program's arguments.
        options: that are not combined.
        program: a file; None = a collective is measured.
        arguments: names of the program's among `values`.
        quantities: what the file says of what a program finds.
    """

    name: str
    title: str
    measure: str
    x: str
    columns: str
    y: tuple[str, ...]
    values: Values
    options: Mapping[str, Any]
    program: Path | None = None
    arguments: tuple[str, ...] = ()
    quantities: Mapping[str, Quantity] = field(default_factory=dict)

    @property
    def varied(self) -> list[str]:
        """Names of what has several values."""
        return several(self.values)

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination."""
        return points(self.values)


def figures() -> dict[str, Path]:
    """The experiments that come with switchml, by name."""
    return {path.stem: path for path in sorted(FIGURES.glob("*.toml"))}


def find(reference: str) -> Path:
    """The file of a name of `figures`, or of a path.

    Raises:
        UsageError: there is none.
    """
    known = figures()
    if reference in known:
        return known[reference]
    path = Path(reference)
    if path.suffix != ".toml":
        _unknown("experiment", reference, known, "; or name a file that ends in .toml")
    if not path.is_file():
        raise UsageError(f"{reference}: there is no such file")
    return path


def load(path: Path, changes: Iterable[str] = (), *, small: bool = False) -> Experiment:
    """An experiment from its file.

    Args:
        path: of it.
        changes: "name=value" each, in place of what the file says.
        small: whether the file's table `small` counts as well, before the changes.

    Raises:
        UsageError: something in it is unknown or cannot be; says what.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    given = dict(_table(document, "small", path)) if small else {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"{change!r}: write NAME=VALUE, or NAME=VALUE,VALUE")
        given[name.strip().replace("-", "_")] = value.strip()
    try:
        return _experiment(document, given, path)
    except UsageError as error:
        raise UsageError(f"{path.name}: {error}") from None


def _experiment(document: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> Experiment:
    for key in document:
        if key not in _KEYS:
            _unknown("key", key, _KEYS)
    measure = document.get("measure", "allreduce")
    if measure not in (*COLLECTIVES, PROGRAM):
        _unknown("measure", measure, (*COLLECTIVES, PROGRAM))
    own = {name: _listed(value) for name, value in _table(document, "arguments", path).items()}
    if measure != PROGRAM and (own or PROGRAM in document or "quantities" in document):
        raise UsageError(f'program, arguments and quantities belong to measure = "{PROGRAM}"')
    without = _NOT_OF_PROGRAMS if measure == PROGRAM else ()
    settings = {name: one for name, one in SETTINGS.items() if name not in without}
    options = dict(_PROGRAM if measure == PROGRAM else _COLLECTIVE)
    for name in own:
        if name in settings or name in options:
            raise UsageError(f"argument {name!r} has the name of a setting")
    written: dict[str, Any] = {name: one.default for name, one in settings.items()}
    for name, value in {**_table(document, "settings", path), **given}.items():
        if name in written:
            written[name] = value
        elif name in options:
            options[name] = _option(name, value, options[name])
        elif name in own:
            own[name] = _listed(value)
        else:
            _unknown("setting", name, (*settings, *options, *own))
    values = {name: parse_values(name, value) for name, value in written.items()} | own
    x, columns = document.get("x", ""), document.get("columns", "")
    for key, name in (("x", x), ("columns", columns)):
        if name not in values and (name or key == "x"):
            _unknown(key, name, values)
    if x == columns:
        raise UsageError(f"x and columns are both {x!r}")
    return Experiment(
        path.stem,
        document.get("title", path.stem),
        measure,
        x,
        columns,
        _drawn(document, measure, options),
        values,
        options,
        _program(document, path) if measure == PROGRAM else None,
        tuple(own),
        {name: _quantity(name, told) for name, told in _table(document, "quantities", path).items()},
    )


def _table(document: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    found = document.get(key, {})
    if not isinstance(found, Mapping):
        raise UsageError(f"{path.name}: {key} is a table: write [{key}] in a line of its own")
    return found


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split(",")
    return value if isinstance(value, list) else [value]


def _option(name: str, value: Any, default: Any) -> Any:
    """A value of the default's kind, from the file or the command line."""
    if isinstance(default, list):
        names = [str(each).strip() for each in _listed(value)]
        return [] if names in ([""], ["none"]) else names
    if isinstance(default, bool):
        words = {"true": True, "yes": True, "false": False, "no": False}
        if str(value).lower() not in words:
            raise UsageError(f"{name}: {value!r} is neither true nor false")
        return words[str(value).lower()]
    try:
        return type(default)(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name}: {value!r} is not a number: give one, not a list") from None


def _drawn(document: Mapping[str, Any], measure: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    usual = [TIME, SPEED_UP] if options["baseline"] else [TIME]
    names = _listed(document.get("y", usual))
    if measure != PROGRAM:
        for name in names:
            if name not in QUANTITIES:
                _unknown("y", name, QUANTITIES)
        if not options["baseline"]:  # there is nothing to be faster than
            names = [name for name in names if name != SPEED_UP] or [TIME]
    elif "y" not in document:
        raise UsageError("y is missing: name what the program tells, for instance accuracy")
    return tuple(names)


def _quantity(name: str, told: Any) -> Quantity:
    if not isinstance(told, Mapping) or (extra := set(told) - {"label", "factor", "zero"}):
        raise UsageError(
            f"quantities.{name}: it has label, factor and zero, and no {', '.join(extra) or 'others'}"
        )
    return Quantity(
        str(told.get("label", name)), float(told.get("factor", 1.0)), zero=bool(told.get("zero", True))
    )


def _program(document: Mapping[str, Any], path: Path) -> Path:
    from switchml.shipped.cli import shipped

    name = document.get(PROGRAM)
    if not name:
        raise UsageError(
            "program is missing: an example's name (switchml examples), or a file beside this one"
        )
    known = {each: found for each, found in shipped() if found.suffix == ".py"}
    found: Path = known.get(name, path.parent / name)
    if not found.is_file():
        _unknown(PROGRAM, name, known, f"; or a file beside {path.name}")
    return found


def _unknown(what: str, name: Any, known: Iterable[str], more: str = "") -> NoReturn:
    names = list(known)
    near = difflib.get_close_matches(str(name), names, 1)
    meant = f"did you mean {near[0]}? There are" if near else "choose from"
    raise UsageError(f"{what} {str(name)!r} is unknown: {meant} {', '.join(names)}{more}")
