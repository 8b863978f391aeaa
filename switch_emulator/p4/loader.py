"""Reads a BMv2 JSON (behavioral-model, docs/JSON_format.md, version 2) into a `Program`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from switchml.errors import UsageError
from switchml.switch_emulator.p4.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.expressions import (
    Const,
    Expr,
    FieldRef,
    LastField,
    Lookahead,
    UnionLastField,
    need_expression,
    read_expression,
    read_hex,
)
from switchml.switch_emulator.p4.program import (
    VALID,
    Action,
    ActionCallNode,
    ActionParam,
    ActionProfile,
    Advance,
    Calculation,
    CalculationInput,
    Checksum,
    Conditional,
    ConstEntry,
    Counter,
    Deparser,
    Extract,
    FieldList,
    FieldType,
    Header,
    HeaderType,
    KeyField,
    Meter,
    Node,
    Parser,
    ParserOp,
    ParserState,
    Pipeline,
    Primitive,
    Program,
    Register,
    SetField,
    SourceInfo,
    Stack,
    Table,
    Transition,
    Union,
    UnionStack,
    Verify,
)

Json = Mapping[str, Any]

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
    """source: a path, the JSON text as bytes, or what json.loads made of it.

    Raises UnsupportedProgramError naming what this target does not support, UsageError for what is no BMv2 JSON.
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
        program.parser = self._parser(_only(root["parsers"], "parser"))
        program.deparser = self._deparser(_only(root["deparsers"], "deparser"))
        for item in root["pipelines"]:
            if item["name"] == "ingress":
                program.ingress = self._pipeline(item)
            elif item["name"] == "egress":
                program.egress = self._pipeline(item)
            else:
                raise UnsupportedProgramError(
                    f"pipeline {item['name']}: simple_switch has ingress and egress"
                )
        self._checksums()
        for item in root.get("learn_lists", ()):
            program.digests[item["id"]] = _field_list(item)
        for item in root.get("field_lists", ()):
            program.field_lists[item["id"]] = _field_list(item)
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

    def _parser(self, item: Json) -> Parser:
        states = {}
        for state in item["parse_states"]:
            states[state["name"]] = self._parser_state(state)
        return Parser(item["name"], item.get("init_state"), states)

    def _parser_state(self, item: Json) -> ParserState:
        key = tuple(need_expression(entry) for entry in item.get("transition_key", ()))
        widths = tuple(self._key_width(entry) for entry in key)
        transitions = []
        default = None
        for entry in item.get("transitions", ()):
            kind = entry.get("type", "hexstr")
            following = entry.get("next_state")
            if kind == "default" or entry.get("value") in (None, "default"):
                default = following
                continue
            mask = entry.get("mask")
            masks = None if mask is None else _split(mask, widths)
            if kind == "parse_vset":
                transitions.append(Transition(following, (), masks, entry["value"]))
            else:
                transitions.append(Transition(following, _split(entry["value"], widths), masks))
        if not key:
            transitions = []
        return ParserState(
            item["name"],
            tuple(_parser_op(op) for op in item.get("parser_ops", ())),
            key,
            widths,
            tuple(transitions),
            default,
        )

    def _key_width(self, key: Expr) -> int:
        program = self.program
        match key:
            case FieldRef():
                return program.field_type(key).width
            case LastField(stack, field):
                return program.stacks[stack].type.field(field).width
            case UnionLastField(stack, member, field):
                union = program.unions[program.union_stacks[stack].unions[0]]
                return program.headers[dict(union.members)[member]].type.field(field).width
            case Lookahead(_, width):
                return width
        raise UnsupportedProgramError(f"parser key of type {type(key).__name__}")

    def _deparser(self, item: Json) -> Deparser:
        return Deparser(
            item["name"], tuple(item["order"]), tuple(read_primitive(p) for p in item.get("primitives", ()))
        )

    # Pipelines

    def _pipeline(self, item: Json) -> Pipeline:
        program = self.program
        for profile in item.get("action_profiles", ()):
            selector = profile.get("selector")
            program.profiles[profile["name"]] = ActionProfile(
                profile["name"],
                int(profile.get("max_size", 0)),
                None
                if selector is None
                else (selector["algo"], tuple(_field(entry) for entry in selector["input"])),
            )
        nodes: dict[str, Node] = {}
        for entry in item["tables"]:
            table = self._table(entry)
            nodes[table.name] = program.tables[table.name] = table
        for entry in item.get("conditionals", ()):
            nodes[entry["name"]] = Conditional(
                entry["name"],
                need_expression(entry["expression"]),
                entry.get("true_next"),
                entry.get("false_next"),
                _source(entry),
            )
        for entry in item.get("action_calls", ()):
            nodes[entry["name"]] = ActionCallNode(entry["name"], entry["action_id"], entry.get("next_node"))
        return Pipeline(item["name"], item.get("init_table"), nodes)

    def _table(self, item: Json) -> Table:
        program = self.program
        name = item["name"]
        key = tuple(self._key_field(entry) for entry in item["key"])
        if "action_ids" in item:
            actions = {program.action_by_id[i].name: i for i in item["action_ids"]}
        else:
            actions = {action: program.actions[action].ident for action in item["actions"]}
        default = item.get("default_entry") or {}
        profile = item.get("action_profile", "")
        if item["type"] not in ("simple", "indirect", "indirect_ws"):
            raise UnsupportedProgramError(f"table {name} of type {item['type']}")
        if item["type"] != "simple" and not profile:
            raise UnsupportedProgramError(f"table {name}: an action profile without a name (JSON before 2.7)")
        entries = tuple(_const_entry(entry) for entry in item.get("entries", ()))
        next_nodes = dict(item["next_tables"])
        return Table(
            name,
            item["match_type"],
            key,
            actions,
            profile,
            int(item.get("max_size", len(entries))),
            bool(item.get("with_counters", False)),
            bool(item.get("support_timeout", False)),
            item.get("direct_meters") or "",
            default.get("action_id"),
            tuple(read_hex(text) for text in default.get("action_data", ())),
            bool(default.get("action_const", False) or default.get("action_entry_const", False)),
            entries,
            "entries" in item,
            next_nodes,
            next_nodes["__MISS__"] if "__MISS__" in next_nodes else item.get("base_default_next"),
        )

    def _key_field(self, item: Json) -> KeyField:
        kind, target = item["match_type"], item["target"]
        if kind not in ("exact", "lpm", "ternary", "range", "valid"):
            raise UnsupportedProgramError(f"match kind {kind}")
        ref = FieldRef(target, VALID) if isinstance(target, str) else FieldRef(*target)
        mask = item.get("mask")
        return KeyField(
            item.get("name") or f"{ref.header}.{ref.field}",
            kind,
            ref,
            self.program.field_type(ref).width,
            None if mask is None else read_hex(mask),
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


def _source(item: Json) -> SourceInfo | None:
    info = item.get("source_info")
    if not info:
        return None
    return SourceInfo(int(info.get("line", 0)), " ".join(str(info.get("source_fragment", "")).split()))


def read_primitive(item: Json) -> Primitive:
    return Primitive(
        item["op"], tuple(need_expression(arg) for arg in item.get("parameters", ())), _source(item)
    )


def _parser_op(item: Json) -> ParserOp:
    op, params = item["op"], item["parameters"]
    match op:
        case "extract" | "extract_VL":
            target, length = params[0], None
            if op == "extract_VL":
                length = need_expression(params[1])
            if target["type"] == "union_stack":
                return Extract("union_stack", target["value"][0], target["value"][1], length)
            if target["type"] not in ("regular", "stack"):
                raise UnsupportedProgramError(f"extract to {target['type']}")
            return Extract(target["type"], target["value"], "", length)
        case "set":
            return SetField(_field(params[0]), need_expression(params[1]))
        case "verify":
            error = Const(params[1]) if isinstance(params[1], int) else need_expression(params[1])
            return Verify(need_expression(params[0]), error)
        case "shift":
            return Advance(Const(8 * int(params[0])))
        case "advance":
            return Advance(need_expression(params[0]))
        case "primitive":
            return read_primitive(params[0])
    raise UnsupportedProgramError(f"parser operation {op!r}")


def _field(item: Json) -> FieldRef:
    if item["type"] != "field":
        raise UnsupportedProgramError(f"{item['type']} where only a field can stand")
    return FieldRef(*item["value"])


def _field_list(item: Json) -> FieldList:
    elements = tuple(need_expression(entry) for entry in item["elements"])
    return FieldList(item["id"], item["name"], elements)


def _split(text: str, widths: tuple[int, ...]) -> tuple[int, ...]:
    """Fields of a byte-padded concatenation."""
    value = read_hex(text)
    fields = []
    for width in reversed(widths):
        padded = (width + 7) // 8 * 8
        fields.append(value & ((1 << padded) - 1))
        value >>= padded
    return tuple(reversed(fields))


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


def _const_entry(item: Json) -> ConstEntry:
    key = []
    for field in item["match_key"]:
        match field["match_type"]:
            case "exact":
                key.append((read_hex(field["key"]), 0))
            case "valid":
                key.append((int(field["key"]), 0))
            case "lpm":
                key.append((read_hex(field["key"]), int(field["prefix_length"])))
            case "ternary":
                key.append((read_hex(field["key"]), read_hex(field["mask"])))
            case "range":
                key.append((read_hex(field["start"]), read_hex(field["end"])))
            case kind:
                raise UnsupportedProgramError(f"constant entry with match kind {kind}")
    action = item["action_entry"]
    return ConstEntry(
        tuple(key),
        action["action_id"],
        tuple(read_hex(text) for text in action["action_data"]),
        int(item.get("priority", 0)),
    )
