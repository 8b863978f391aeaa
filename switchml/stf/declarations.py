"""What a BMv2 JSON declares, and how the short names of a script find it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from switchml.errors import SwitchMLError
from switchml.p4runtime.entries import MatchKind

T = TypeVar("T")


class UnknownNameError(SwitchMLError):
    """The program has nothing of that name, or more than one thing."""


@dataclass(frozen=True)
class DeclaredField:
    name: str
    kind: MatchKind
    width: int


@dataclass(frozen=True)
class DeclaredAction:
    """parameters: (name, bits)."""

    name: str
    parameters: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class DeclaredTable:
    """kind: the table's match_type. type: simple, indirect or indirect_ws (with a selector)."""

    name: str
    kind: str
    type: str
    key: tuple[DeclaredField, ...]
    actions: tuple[DeclaredAction, ...]

    @property
    def prioritised(self) -> bool:
        return self.kind in ("ternary", "range")

    def field(self, name: str) -> DeclaredField:
        """The key field that a script calls `name`: extra$0.h is extra[0].h, and $valid, valid or isValid() may be left to
        the last part.

        Raises:
            UnknownNameError: there is none.
        """
        name = re.sub(r"\$(\d+)", r"[\1]", name)
        wanted = [name, f"{name}$", f"{name}.$valid$", f"{name}.isValid()"]
        if name.endswith((".valid", ".$valid", ".isValid")):
            header = name.rpartition(".")[0]
            wanted += [f"{header}.$valid$", f"{header}.isValid()"]
        elif name in ("valid", "$valid"):
            wanted += ["$valid$", "isValid()"]
        for candidate in wanted:
            for field in self.key:
                if field.name == candidate:
                    return field
        for candidate in wanted:
            for field in self.key:
                if field.name.endswith(f".{candidate}"):
                    return field
        raise UnknownNameError(
            f"table {self.name} has no key field {name!r}; it has {', '.join(f.name for f in self.key) or 'none'}"
        )

    def action(self, name: str) -> DeclaredAction:
        return _find(f"action of table {self.name}", name, {action.name: action for action in self.actions})


@dataclass(frozen=True)
class DeclaredCounter:
    """table: of a direct counter."""

    name: str
    size: int
    table: str


@dataclass(frozen=True)
class Names:
    tables: dict[str, DeclaredTable]
    counters: dict[str, DeclaredCounter]
    registers: dict[str, int]
    meters: dict[str, int]

    def table(self, name: str) -> DeclaredTable:
        return _find("table", name, self.tables)

    def counter(self, name: str) -> DeclaredCounter:
        return _find("counter", name, self.counters)

    def register(self, name: str) -> str:
        return _find("register", name, {full: full for full in self.registers})

    def meter(self, name: str) -> str:
        return _find("meter", name, {full: full for full in self.meters})


def _find(what: str, name: str, declared: dict[str, T]) -> T:
    """By the full name, else the only one that ends in `.name`, else the only one that ends in `name`."""
    name = name.lstrip(".")
    if name in declared:
        return declared[name]
    for tail in (f".{name}", name):
        found = [full for full in declared if full.endswith(tail)]
        if len(found) == 1:
            return declared[found[0]]
        if found:
            raise UnknownNameError(
                f"{what} {name!r} may be any of {', '.join(found)}: write more of the name"
            )
    raise UnknownNameError(f"no {what} {name!r}; there are: {', '.join(sorted(declared)) or 'none'}")


def _widths(program: dict[str, Any]) -> dict[tuple[str, str], int]:
    types = {entry["name"]: entry["fields"] for entry in program.get("header_types", [])}
    found = {}
    for header in program.get("headers", []):
        for name, width, *_ in types.get(header["header_type"], []):
            found[header["name"], name] = width if isinstance(width, int) else 0
    return found


_KINDS = {kind.value: kind for kind in MatchKind} | {"valid": MatchKind.EXACT}


def _key_field(entry: dict[str, Any], widths: dict[tuple[str, str], int]) -> DeclaredField:
    target = entry["target"]
    parts = target if isinstance(target, list) else [target, "$valid$"]
    name = entry.get("name") or ".".join(parts)
    width = 1 if parts[-1] == "$valid$" else widths.get((parts[0], parts[1]), 0)
    return DeclaredField(name, _KINDS[entry["match_type"]], width)


def _tables(
    program: dict[str, Any], actions: dict[int, DeclaredAction]
) -> Iterable[tuple[str, DeclaredTable]]:
    widths = _widths(program)
    for pipeline in program.get("pipelines", []):
        for entry in pipeline["tables"]:
            ids = entry.get("action_ids", [])
            yield (
                entry["name"],
                DeclaredTable(
                    entry["name"],
                    entry["match_type"],
                    entry.get("type", "simple"),
                    tuple(_key_field(field, widths) for field in entry["key"]),
                    tuple(actions[number] for number in ids),
                ),
            )


def read_names(program: dict[str, Any]) -> Names:
    """What a decoded BMv2 JSON declares."""
    actions = {
        entry["id"]: DeclaredAction(
            entry["name"], tuple((p["name"], p["bitwidth"]) for p in entry.get("runtime_data", []))
        )
        for entry in program.get("actions", [])
    }
    counters = {
        entry["name"]: DeclaredCounter(entry["name"], entry.get("size", 0), entry.get("binding", ""))
        for entry in program.get("counter_arrays", [])
    }
    registers = {entry["name"]: entry["size"] for entry in program.get("register_arrays", [])}
    meters = {
        entry["name"]: entry.get("size", 0)
        for entry in program.get("meter_arrays", [])
        if not entry.get("is_direct")
    }
    return Names(dict(_tables(program, actions)), counters, registers, meters)


def load_names(path: Path) -> Names:
    """`read_names` of a file.

    Raises:
        SwitchMLError: it is no BMv2 JSON.
    """
    try:
        program = json.loads(path.read_text())
        return read_names(program)
    except (OSError, ValueError) as error:
        raise SwitchMLError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise SwitchMLError(f"{path} is no BMv2 JSON: {error!r} is missing or not as it should be") from error
