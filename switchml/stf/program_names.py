"""What a BMv2 JSON declares, and how the short names of a script find it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from switchml.errors import SwitchMLError
from switchml.p4runtime.declarations import ActionInfo, FieldInfo, ParameterInfo
from switchml.p4runtime.entries import MatchKind

T = TypeVar("T")


class UnknownNameError(SwitchMLError):
    """The program has nothing of that name, or more than one thing."""


@dataclass(frozen=True)
class DeclaredTable:
    """A table of a program.

    Attributes:
        kind: the table's match_type.
        type: simple, indirect or indirect_ws (with a selector).
    """

    name: str
    kind: str
    type: str
    key: tuple[FieldInfo, ...]
    actions: tuple[ActionInfo, ...]

    @property
    def prioritised(self) -> bool:
        """Whether entries have a priority."""
        return self.kind in ("ternary", "range")

    def field(self, name: str) -> FieldInfo:
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

    def action(self, name: str) -> ActionInfo:
        """An action of the table by its short name. Raises UnknownNameError."""
        return _find(f"action of table {self.name}", name, {action.name: action for action in self.actions})


@dataclass(frozen=True)
class DeclaredCounter:
    """A counter of a program.

    Attributes:
        table: of a direct counter.
    """

    name: str
    size: int
    table: str


@dataclass(frozen=True)
class Names:
    """All that a program declares, by full name; registers and meters: their sizes."""

    tables: dict[str, DeclaredTable]
    counters: dict[str, DeclaredCounter]
    registers: dict[str, int]
    meters: dict[str, int]

    def table(self, name: str) -> DeclaredTable:
        """A table by its short name. Raises UnknownNameError."""
        return _find("table", name, self.tables)

    def counter(self, name: str) -> DeclaredCounter:
        """A counter by its short name. Raises UnknownNameError."""
        return _find("counter", name, self.counters)

    def register(self, name: str) -> str:
        """A register's full name by its short one. Raises UnknownNameError."""
        return _find("register", name, {full: full for full in self.registers})

    def meter(self, name: str) -> str:
        """A meter's full name by its short one. Raises UnknownNameError."""
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


def _key_field(number: int, entry: dict[str, Any], widths: dict[tuple[str, str], int]) -> FieldInfo:
    target = entry["target"]
    parts = target if isinstance(target, list) else [target, "$valid$"]
    name = entry.get("name") or ".".join(parts)
    width = 1 if parts[-1] == "$valid$" else widths.get((parts[0], parts[1]), 0)
    return FieldInfo(number, name, width, _KINDS[entry["match_type"]])


def _tables(program: dict[str, Any], actions: dict[int, ActionInfo]) -> Iterable[tuple[str, DeclaredTable]]:
    widths = _widths(program)
    by_name = {action.name: number for number, action in actions.items()}
    for pipeline in program.get("pipelines", []):
        for entry in pipeline["tables"]:
            # JSON before 2.7 names them.
            ids = entry["action_ids"] if "action_ids" in entry else map(by_name.get, entry["actions"])
            yield (
                entry["name"],
                DeclaredTable(
                    entry["name"],
                    entry["match_type"],
                    entry.get("type", "simple"),
                    tuple(_key_field(number, field, widths) for number, field in enumerate(entry["key"], 1)),
                    tuple(actions[number] for number in ids if number is not None),
                ),
            )


def read_names(program: dict[str, Any]) -> Names:
    """What a decoded BMv2 JSON declares."""
    actions = {
        entry["id"]: ActionInfo(
            entry["id"],
            entry["name"],
            tuple(
                ParameterInfo(number, each["name"], each["bitwidth"])
                for number, each in enumerate(entry.get("runtime_data", []), 1)
            ),
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
        # BMv2's reader takes line ends inside of texts.
        return read_names(json.loads(path.read_text(), strict=False))
    except (OSError, ValueError) as error:
        raise SwitchMLError(f"{path} cannot be read: {error}") from error
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SwitchMLError(f"{path} is no BMv2 JSON: {error!r} is missing or not as it should be") from error
