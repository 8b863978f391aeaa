"""Reads a BMv2 JSON (behavioral-model, docs/JSON_format.md, version 2) into a `Program`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from switchml.errors import UnsupportedProgramError, UsageError
from switchml.switch_emulator.p4.expressions import (
    FieldRef,
    read_expression,
    read_hex,
)
from switchml.switch_emulator.p4.json_items import Json, read_field_list, read_primitive
from switchml.switch_emulator.p4.parser_loader import ParserLoader
from switchml.switch_emulator.p4.pipeline_loader import PipelineLoader
from switchml.switch_emulator.p4.program_model import (
    Action,
    ActionParam,
    Calculation,
    CalculationInput,
    Checksum,
    Counter,
    Deparser,
    FieldType,
    Header,
    HeaderType,
    Meter,
    Program,
    Register,
    Stack,
    Union,
    UnionStack,
)

CORE_ERRORS = (
    "NoError",
    "PacketTooShort",
    "NoMatch",
    "StackOutOfBounds",
    "HeaderTooShort",
    "ParserTimeout",
    "ParserInvalidArgument",
)


def load_program(source: str | os.PathLike[str] | bytes | dict[str, Any]) -> Program:
    """Load a program that p4c has compiled for BMv2.

    Args:
        source: a path, the JSON text as bytes, or what json.loads made of it.

    Raises:
        UnsupportedProgramError: names what this target does not support.
        UsageError: this is no BMv2 JSON.
    """
    if isinstance(source, dict):
        text = json.dumps(source).encode()
        root = source
    else:
        text = source if isinstance(source, bytes) else Path(source).read_bytes()
        try:
            root = json.loads(text)
        except ValueError as error:
            raise UsageError(f"the program is no JSON: {error}") from error
    if not isinstance(root, dict) or "pipelines" not in root or "parsers" not in root:
        raise UsageError(
            "the JSON has no pipelines or parsers: compile with p4c --target bmv2 --arch v1model"
        )
    version = root.get("__meta__", {}).get("version", [2, 0])
    if version[0] != 2:
        raise UnsupportedProgramError(f"BMv2 JSON version {version[0]}: this target reads version 2")
    try:
        return _Loader(root, text).load()
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"malformed BMv2 JSON: {type(error).__name__} {error}") from error


class _Loader:
    def __init__(self, root: Json, text: bytes) -> None:
        self.root = root
        self.program = Program(text)
        self.header_by_id: dict[int, str] = {}

    def load(self) -> Program:
        program, root = self.program, self.root
        if root.get("extern_instances"):
            first = root["extern_instances"][0]
            raise UnsupportedProgramError(f"extern {first['name']} of type {first['type']}")
        for name, (header, field) in root.get("field_aliases", ()):
            program.aliases[name] = FieldRef(header, field)
        self._headers()
        self._errors()
        for item in root.get("parse_vsets", ()):
            program.value_sets[item["name"]] = int(item["compressed_bitwidth"])
        self._state()
        self._calculations()
        for item in root.get("actions", ()):
            self._action(item)
        program.parser = ParserLoader(program).load(_only(root["parsers"], "parser"))
        program.deparser = self._deparser(_only(root["deparsers"], "deparser"))
        for item in root["pipelines"]:
            if item["name"] == "ingress":
                program.ingress = PipelineLoader(program).load(item)
            elif item["name"] == "egress":
                program.egress = PipelineLoader(program).load(item)
            else:
                raise UnsupportedProgramError(
                    f"pipeline {item['name']}: simple_switch has ingress and egress"
                )
        self._checksums()
        for item in root.get("learn_lists", ()):
            program.digests[item["id"]] = read_field_list(item)
        for item in root.get("field_lists", ()):
            program.field_lists[item["id"]] = read_field_list(item)
        return program

    # Headers

    def _headers(self) -> None:
        program, root = self.program, self.root
        for item in root["header_types"]:
            program.header_types[item["name"]] = _header_type(item)
        for item in root["headers"]:
            header_type = program.header_types[item["header_type"]]
            program.headers[item["name"]] = Header(item["name"], header_type, bool(item.get("metadata")))
            self.header_by_id[item["id"]] = item["name"]
            if not item.get("metadata") and header_type.fixed_bits % 8:
                raise UnsupportedProgramError(
                    f"header {item['name']}: {header_type.fixed_bits} bits, no whole bytes"
                )
        for item in root.get("header_stacks", ()):
            program.stacks[item["name"]] = Stack(
                item["name"],
                program.header_types[item["header_type"]],
                tuple(self.header_by_id[i] for i in item["header_ids"]),
            )
        union_types = {
            item["name"]: [member[0] for member in item["headers"]]
            for item in root.get("header_union_types", ())
        }
        union_by_id = {}
        for item in root.get("header_unions", ()):
            members = zip(union_types[item["union_type"]], item["header_ids"], strict=True)
            program.unions[item["name"]] = Union(
                item["name"], tuple((name, self.header_by_id[i]) for name, i in members)
            )
            union_by_id[item["id"]] = item["name"]
        for item in root.get("header_union_stacks", ()):
            program.union_stacks[item["name"]] = UnionStack(
                item["name"], tuple(union_by_id[i] for i in item["header_union_ids"])
            )

    def _errors(self) -> None:
        errors = self.program.errors
        for name, value in self.root.get("errors", ()):
            errors[name] = int(value)
        free = max(errors.values(), default=-1) + 1
        for name in CORE_ERRORS:
            if name not in errors:
                errors[name] = 0 if name == "NoError" and 0 not in errors.values() else free
                free = max(free, errors[name]) + 1

    # Stateful objects

    def _state(self) -> None:
        program, root = self.program, self.root
        for item in root.get("register_arrays", ()):
            program.registers[item["name"]] = Register(item["name"], int(item["size"]), int(item["bitwidth"]))
        for item in root.get("counter_arrays", ()):
            direct = item.get("is_direct", False)
            program.counters[item["name"]] = Counter(
                item["name"], int(item.get("size", 0)), item["binding"] if direct else ""
            )
        for item in root.get("meter_arrays", ()):
            if item.get("rate_count", 2) != 2:
                raise UnsupportedProgramError(f"meter {item['name']} with {item['rate_count']} rates")
            direct = item.get("is_direct", False)
            program.meters[item["name"]] = Meter(
                item["name"],
                int(item.get("size", 0)),
                item["type"],
                item["binding"] if direct else "",
                FieldRef(*item["result_target"]) if direct else None,
            )

    def _calculations(self) -> None:
        for item in self.root.get("calculations", ()):
            inputs = tuple(_calculation_input(entry) for entry in item["input"])
            self.program.calculations[item["name"]] = Calculation(item["name"], item["algo"], inputs)

    def _checksums(self) -> None:
        checksums = []
        for item in self.root.get("checksums", ()):
            if item["type"] != "generic":
                raise UnsupportedProgramError(f"checksum {item['name']} of type {item['type']}")
            checksums.append(
                Checksum(
                    item["name"],
                    FieldRef(*item["target"]),
                    item["calculation"],
                    bool(item.get("update", True)),
                    bool(item.get("verify", True)),
                    read_expression(item.get("if_cond")),
                )
            )
        self.program.checksums = tuple(checksums)

    # Actions and parsers

    def _action(self, item: Json) -> None:
        params = tuple(ActionParam(p["name"], int(p["bitwidth"])) for p in item.get("runtime_data", ()))
        action = Action(
            item["name"], item["id"], params, tuple(read_primitive(p) for p in item.get("primitives", ()))
        )
        self.program.actions.setdefault(action.name, action)
        self.program.action_by_id[action.ident] = action

    def _deparser(self, item: Json) -> Deparser:
        return Deparser(
            item["name"], tuple(item["order"]), tuple(read_primitive(p) for p in item.get("primitives", ()))
        )


def _only(items: Sequence[Json], what: str) -> Json:
    if len(items) != 1:
        raise UnsupportedProgramError(f"{len(items)} {what}s: simple_switch has one")
    return items[0]


def _header_type(item: Json) -> HeaderType:
    fields = []
    max_bytes = int(item.get("max_length") or 0)
    fixed = sum(int(entry[1]) for entry in item["fields"] if entry[1] != "*")
    for entry in item["fields"]:
        variable = entry[1] == "*"
        width = max(0, 8 * max_bytes - fixed) if variable else int(entry[1])
        signed, saturating = (bool(entry[i]) if len(entry) > i else False for i in (2, 3))
        fields.append(FieldType(entry[0], width, signed, saturating, variable))
    if "length_exp" in item and any(f.variable for f in fields):
        raise UnsupportedProgramError(f"header type {item['name']}: a length expression of its own (P4-14)")
    return HeaderType(item["name"], tuple(fields), max_bytes)


def _calculation_input(item: Json) -> CalculationInput:
    kind = item["type"]
    match kind:
        case "field":
            return CalculationInput(field=FieldRef(*item["value"]))
        case "header":
            return CalculationInput(header=item["value"])
        case "hexstr":
            bits = int(item["bitwidth"])
            return CalculationInput(constant=(read_hex(item["value"]) & ((1 << bits) - 1), bits))
        case "payload":
            return CalculationInput(payload=True)
    raise UnsupportedProgramError(f"{kind} as input of a hash or checksum")
