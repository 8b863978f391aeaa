"""Reads a BMv2 JSON (behavioral-model, docs/JSON_format.md, version 2) into a `Program`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from switchml.errors import MalformedProgramError, UnsupportedProgramError
from switchml.switch_emulator.p4.expressions import (
    Const,
    FieldRef,
    read_expression,
    read_hex,
)
from switchml.switch_emulator.p4.json_items import Json, read_field_list, read_primitive
from switchml.switch_emulator.p4.parser_loader import ParserLoader
from switchml.switch_emulator.p4.pipeline_loader import PipelineLoader
from switchml.switch_emulator.p4.places import (
    MOST_BITS,
    MOST_INPUTS,
    MOST_JSON_BYTES,
    MOST_STATE_BYTES,
    at,
    listed,
    number,
    text,
)
from switchml.switch_emulator.p4.program_model import (
    Action,
    ActionParam,
    Calculation,
    CalculationInput,
    Checksum,
    Counter,
    Deparser,
    FieldList,
    FieldType,
    Header,
    HeaderType,
    Meter,
    Primitive,
    Program,
    Register,
    Stack,
    Union,
    UnionStack,
)

K = TypeVar("K")
V = TypeVar("V")

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
        UnsupportedProgramError: names what this target does not support, and where.
        MalformedProgramError: this is no BMv2 JSON, or does not hold together; one of the former.
    """
    with at("the program", outermost=True):
        text = _as_bytes(source)
        if len(text) > MOST_JSON_BYTES:
            raise UnsupportedProgramError(f"{len(text)} bytes of JSON: this target takes {MOST_JSON_BYTES}")
        root = source if isinstance(source, dict) else _parsed(text)
    if not isinstance(root, dict) or "pipelines" not in root or "parsers" not in root:
        raise MalformedProgramError(
            "the JSON has no pipelines or parsers: compile with p4c --target bmv2 --arch v1model"
        )
    with at("__meta__"):
        version = root.get("__meta__", {}).get("version", [2, 0])
        if version[0] != 2:
            raise UnsupportedProgramError(f"BMv2 JSON version {version[0]!r}: this target reads version 2")
    with at("the program", outermost=True):
        return _Loader(root, text).load()


def _as_bytes(source: str | os.PathLike[str] | bytes | dict[str, Any]) -> bytes:
    match source:
        case dict():
            return json.dumps(source).encode()
        case bytes():
            return source
    return Path(source).read_bytes()


def _parsed(text: bytes) -> Any:
    try:
        # BMv2's reader takes line ends inside of texts.
        return json.loads(text, strict=False)
    except ValueError as error:
        raise MalformedProgramError(f"this is no JSON: {error}") from error


class _Loader:
    def __init__(self, root: Json, source: bytes) -> None:
        self.root = root
        self.program = Program(source)
        self.header_by_id: dict[int, str] = {}
        self._state_bytes = 0

    def load(self) -> Program:
        program, root = self.program, self.root
        for place, item in listed(root, "extern_instances"):
            raise UnsupportedProgramError(
                f"{place}: extern {item.get('name')!r} of type {item.get('type')!r}"
            )
        with at("field_aliases"):
            for name, (header, field) in root.get("field_aliases", ()):
                program.aliases[name] = FieldRef(header, field)
        self._headers()
        with at("errors"):
            self._errors()
        for place, item in listed(root, "parse_vsets"):
            with at(place):
                width = number(item["compressed_bitwidth"], "compressed_bitwidth", 0, MOST_BITS)
                _put(program.value_sets, text(item, "name"), width)
        self._state()
        for place, item in listed(root, "calculations"):
            with at(place):
                self._calculation(item)
        for place, item in listed(root, "actions"):
            with at(place):
                self._action(item)
        parser, deparser = _only(root, "parsers"), _only(root, "deparsers")
        with at("parsers[0]"):
            program.parser = ParserLoader(program).load(parser)
        with at("deparsers[0]"):
            program.deparser = self._deparser(deparser)
        for place, item in listed(root, "pipelines", needed=True):
            with at(place):
                self._pipeline(item)
        for place, item in listed(root, "checksums"):
            with at(place):
                self._checksum(item)
        for key, lists in (("learn_lists", program.digests), ("field_lists", program.field_lists)):
            for place, item in listed(root, key):
                with at(place):
                    self._field_list(item, lists)
        return program

    def _pipeline(self, item: Json) -> None:
        match text(item, "name"):
            case "ingress":
                self.program.ingress = PipelineLoader(self.program).load(item)
            case "egress":
                self.program.egress = PipelineLoader(self.program).load(item)
            case name:
                raise UnsupportedProgramError(f"pipeline {name!r}: simple_switch has ingress and egress")

    def _field_list(self, item: Json, lists: dict[int, FieldList]) -> None:
        fields = read_field_list(item)
        for element in fields.elements:
            match element:
                case FieldRef():
                    self.program.field_type(element)
                case Const():
                    pass
                case _:
                    raise UnsupportedProgramError(f"{type(element).__name__} in a list of fields")
        lists[fields.ident] = fields

    # Headers

    def _headers(self) -> None:
        program, root = self.program, self.root
        for place, item in listed(root, "header_types", needed=True):
            with at(place):
                _put(program.header_types, text(item, "name"), _header_type(item))
        for place, item in listed(root, "headers", needed=True):
            with at(place):
                self._header(item)
        placed: set[str] = set()
        for place, item in listed(root, "header_stacks"):
            with at(place):
                self._stack(item, placed)
        union_types = {}
        for place, item in listed(root, "header_union_types"):
            with at(place):
                union_types[text(item, "name")] = [member[0] for member in item["headers"]]
        union_by_id = {}
        for place, item in listed(root, "header_unions"):
            with at(place):
                members = tuple(
                    (name, self.header_by_id[i])
                    for name, i in zip(union_types[item["union_type"]], item["header_ids"], strict=True)
                )
                _once(placed, [header for _, header in members])
                _put(program.unions, text(item, "name"), Union(item["name"], members))
                union_by_id[item["id"]] = item["name"]
        for place, item in listed(root, "header_union_stacks"):
            with at(place):
                unions = tuple(union_by_id[i] for i in item["header_union_ids"])
                _once(placed, [f"union {union}" for union in unions])
                alike = {
                    tuple(program.headers[header].type.name for _, header in program.unions[union].members)
                    for union in unions
                }
                if len(alike) != 1:
                    raise MalformedProgramError("unions of one type are wanted, one at least")
                _put(program.union_stacks, text(item, "name"), UnionStack(item["name"], unions))

    def _header(self, item: Json) -> None:
        name = text(item, "name")
        header_type = self.program.header_types[item["header_type"]]
        _put(self.program.headers, name, Header(name, header_type, bool(item.get("metadata"))))
        self.header_by_id[item["id"]] = name
        if not item.get("metadata") and header_type.fixed_bits % 8:
            raise UnsupportedProgramError(f"header {name}: {header_type.fixed_bits} bits, no whole bytes")

    def _stack(self, item: Json, placed: set[str]) -> None:
        program = self.program
        headers = tuple(self.header_by_id[i] for i in item["header_ids"])
        _once(placed, headers)
        kind = program.header_types[item["header_type"]]
        if not headers or any(program.headers[header].type is not kind for header in headers):
            raise MalformedProgramError("headers of the stack's type are wanted, one at least")
        _put(program.stacks, text(item, "name"), Stack(item["name"], kind, headers))

    def _errors(self) -> None:
        errors = self.program.errors
        for name, value in self.root.get("errors", ()):
            errors[name] = number(value, f"error {name}", 0, 0xFFFFFFFF)
        free = max(errors.values(), default=-1) + 1
        for name in CORE_ERRORS:
            if name not in errors:
                errors[name] = 0 if name == "NoError" and 0 not in errors.values() else free
                free = max(free, errors[name]) + 1

    # Stateful objects

    def _state(self) -> None:
        program, root = self.program, self.root
        for place, item in listed(root, "register_arrays"):
            with at(place):
                width = number(item["bitwidth"], "bitwidth", 1, MOST_BITS)
                _put(
                    program.registers,
                    text(item, "name"),
                    Register(item["name"], self._size(item["size"], 8 + width // 8), width),
                )
        for place, item in listed(root, "counter_arrays"):
            with at(place):
                direct = item.get("is_direct", False)
                size = self._size(item.get("size", 0), 16)
                counter = Counter(text(item, "name"), size, text(item, "binding") if direct else "")
                _put(program.counters, counter.name, counter)
        for place, item in listed(root, "meter_arrays"):
            with at(place):
                self._meter(item)

    def _size(self, value: Any, bytes_each: int) -> int:
        """Of an array of state, unless all of them together are too large."""
        size = number(value, "size", 0, MOST_STATE_BYTES)
        self._state_bytes += size * bytes_each
        if self._state_bytes > MOST_STATE_BYTES:
            raise UnsupportedProgramError(
                f"{self._state_bytes} bytes of registers, counters and meters: this target takes {MOST_STATE_BYTES}"
            )
        return size

    def _meter(self, item: Json) -> None:
        if item.get("rate_count", 2) != 2:
            raise UnsupportedProgramError(f"meter {item['name']!r} with {item['rate_count']!r} rates")
        direct = item.get("is_direct", False)
        meter = Meter(
            text(item, "name"),
            self._size(item.get("size", 0), 16),
            text(item, "type"),
            text(item, "binding") if direct else "",
            FieldRef(*item["result_target"]) if direct else None,
        )
        if meter.result is not None:
            self.program.field_type(meter.result)
        _put(self.program.meters, meter.name, meter)

    def _calculation(self, item: Json) -> None:
        inputs = tuple(_calculation_input(entry) for entry in item["input"])
        if len(inputs) > MOST_INPUTS:
            raise UnsupportedProgramError(f"{len(inputs)} inputs: this target takes {MOST_INPUTS}")
        calculation = Calculation(text(item, "name"), text(item, "algo"), inputs)
        _put(self.program.calculations, calculation.name, calculation)

    def _checksum(self, item: Json) -> None:
        if item["type"] != "generic":
            raise UnsupportedProgramError(f"checksum {item['name']!r} of type {item['type']!r}")
        target = FieldRef(*item["target"])
        self.program.field_type(target)
        checksum = Checksum(
            text(item, "name"),
            target,
            self.program.calculations[item["calculation"]].name,
            bool(item.get("update", True)),
            bool(item.get("verify", True)),
            read_expression(item.get("if_cond")),
        )
        self.program.checksums = (*self.program.checksums, checksum)

    # Actions and parsers

    def _action(self, item: Json) -> None:
        params = []
        for place, entry in listed(item, "runtime_data"):
            with at(place):
                width = number(entry["bitwidth"], "bitwidth", 0, MOST_BITS)
                params.append(ActionParam(text(entry, "name"), width))
        body = _primitives(item)
        action = Action(text(item, "name"), item["id"], tuple(params), body)
        _put(self.program.action_by_id, action.ident, action)
        self.program.actions.setdefault(action.name, action)

    def _deparser(self, item: Json) -> Deparser:
        order = tuple(self.program.headers[name].name for name in item["order"])
        return Deparser(text(item, "name"), order, _primitives(item))


def _primitives(item: Json) -> tuple[Primitive, ...]:
    body = []
    for place, entry in listed(item, "primitives"):
        with at(place):
            body.append(read_primitive(entry))
    return tuple(body)


def _put(items: dict[K, V], name: K, value: V) -> None:
    if name in items:
        raise MalformedProgramError(f"there are two of the name {name!r}")
    items[name] = value


def _once(placed: set[str], headers: Sequence[str]) -> None:
    """A header stands in one stack or union."""
    if len(set(headers)) != len(headers) or not placed.isdisjoint(headers):
        raise MalformedProgramError("a header in two stacks or unions, or twice in one")
    placed.update(headers)


def _only(root: Json, key: str) -> Json:
    items = list(listed(root, key, needed=True))
    if len(items) != 1:
        raise UnsupportedProgramError(f"{len(items)} {key}: simple_switch has one")
    return items[0][1]


def _header_type(item: Json) -> HeaderType:
    fields = []
    max_bytes = number(item.get("max_length") or 0, "max_length", 0, MOST_BITS // 8)
    fixed = sum(_width(entry) for entry in item["fields"] if entry[1] != "*")
    for entry in item["fields"]:
        variable = entry[1] == "*"
        width = max(0, 8 * max_bytes - fixed) if variable else _width(entry)
        signed, saturating = (bool(entry[i]) if len(entry) > i else False for i in (2, 3))
        if not isinstance(entry[0], str):
            raise MalformedProgramError(f"a field's name is no text: {entry[0]!r}")
        if signed and width == 0:
            raise MalformedProgramError(f"field {entry[0]}: a signed number of no bits")
        fields.append(FieldType(entry[0], width, signed, saturating, variable))
    if len({field.name for field in fields}) != len(fields):
        raise MalformedProgramError("two fields of one name")
    if sum(field.variable for field in fields) > 1:
        raise UnsupportedProgramError("two fields of variable length")
    if "length_exp" in item and any(f.variable for f in fields):
        raise UnsupportedProgramError(f"header type {item['name']}: a length expression of its own (P4-14)")
    return HeaderType(item["name"], tuple(fields), max_bytes)


def _width(entry: Sequence[Any]) -> int:
    return number(entry[1], f"width of field {entry[0]!r}", 0, MOST_BITS)


def _calculation_input(item: Json) -> CalculationInput:
    kind = item["type"]
    match kind:
        case "field":
            return CalculationInput(field=FieldRef(*item["value"]))
        case "header":
            return CalculationInput(header=item["value"])
        case "hexstr":
            bits = number(item["bitwidth"], "bitwidth", 0, MOST_BITS)
            return CalculationInput(constant=(read_hex(item["value"]) & ((1 << bits) - 1), bits))
        case "payload":
            return CalculationInput(payload=True)
    raise UnsupportedProgramError(f"{kind!r} as input of a hash or checksum")
