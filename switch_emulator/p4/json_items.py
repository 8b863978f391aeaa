"""What stands in many places of a BMv2 JSON: fields, lists of them, primitives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.expressions import (
    FieldRef,
    need_expression,
)
from switchml.switch_emulator.p4.places import number, text
from switchml.switch_emulator.p4.program_model import (
    FieldList,
    Primitive,
    SourceInfo,
)

Json = Mapping[str, Any]


def read_source(item: Json) -> SourceInfo | None:
    """Where an item stands in the P4 source, if the JSON says so."""
    info = item.get("source_info")
    if not info:
        return None
    file = Path(str(info.get("filename", ""))).name
    fragment = " ".join(str(info.get("source_fragment", "")).split())
    return SourceInfo(file, number(info.get("line", 0), "line", 0, 1 << 31), fragment)


def read_primitive(item: Json) -> Primitive:
    """A primitive with its operands."""
    return Primitive(
        text(item, "op"), tuple(need_expression(arg) for arg in item.get("parameters", ())), read_source(item)
    )


def read_field(item: Json) -> FieldRef:
    """A field.

    Raises:
        UnsupportedProgramError: the item is something else.
    """
    if item["type"] != "field":
        raise UnsupportedProgramError(f"{item['type']!r} where only a field can stand")
    return FieldRef(*item["value"])


def read_field_list(item: Json) -> FieldList:
    """A list of fields, as clones, digests and resubmission take it."""
    elements = tuple(need_expression(entry) for entry in item["elements"])
    return FieldList(item["id"], text(item, "name"), elements)
