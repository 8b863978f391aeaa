"""Reads the pipelines of a BMv2 JSON: tables, conditions and action profiles."""

from __future__ import annotations

from switchml.errors import MalformedProgramError, UnsupportedProgramError
from switchml.switch_emulator.p4.expressions import (
    FieldRef,
    need_expression,
    read_hex,
)
from switchml.switch_emulator.p4.json_items import Json, read_field, read_source
from switchml.switch_emulator.p4.places import MOST_NODES, at, listed, number, text
from switchml.switch_emulator.p4.program_model import (
    VALID,
    ActionCallNode,
    ActionProfile,
    Conditional,
    ConstEntry,
    KeyField,
    Node,
    PipelineGraph,
    Program,
    Table,
)

# No memory is kept for them: any number that fits.
_MOST_ENTRIES = 1 << 31


_WANTED = "JSON of version 2.7 or later is wanted (a p4c of 2017 or later)"


class PipelineLoader:
    """Reads pipelines.

    Args:
        program: its headers and actions are there already; its tables and action profiles are added.
    """

    def __init__(self, program: Program) -> None:
        self.program = program

    def load(self, item: Json) -> PipelineGraph:
        """A pipeline as the JSON has it.

        Raises:
            UnsupportedProgramError: something that this target has not got.
        """
        program = self.program
        for place, entry in listed(item, "action_profiles"):
            with at(place):
                self._profile(text(entry, "name"), entry.get("max_size", 0), entry.get("selector"))
        nodes: dict[str, Node] = {}
        for place, entry in listed(item, "tables", needed=True):
            with at(place):
                table = self._table(entry)
                if table.name in program.tables:
                    raise MalformedProgramError("there are two tables of this name")
                nodes[table.name] = program.tables[table.name] = table
        for place, entry in listed(item, "conditionals"):
            with at(place):
                condition = need_expression(entry["expression"])
                self._put(
                    nodes,
                    Conditional(
                        text(entry, "name"),
                        condition,
                        entry.get("true_next"),
                        entry.get("false_next"),
                        read_source(entry),
                    ),
                )
        for place, entry in listed(item, "action_calls"):
            with at(place):
                action = program.action_by_id[entry["action_id"]].ident
                self._put(nodes, ActionCallNode(text(entry, "name"), action, entry.get("next_node")))
        if len(nodes) > MOST_NODES:
            raise UnsupportedProgramError(
                f"{len(nodes)} tables and conditions: this target takes {MOST_NODES}"
            )
        return PipelineGraph(item["name"], item.get("init_table"), nodes)

    def _put(self, nodes: dict[str, Node], node: Node) -> None:
        if node.name in nodes:
            raise MalformedProgramError("there are two of this name in the pipeline")
        nodes[node.name] = node

    def _profile(self, name: str, size: object, selector: Json | None) -> None:
        if name in self.program.profiles:
            raise MalformedProgramError("there are two action profiles of this name")
        chosen = None
        if selector is not None:
            fields = tuple(read_field(entry) for entry in selector["input"])
            for field in fields:
                self.program.field_type(field)
            chosen = (text(selector, "algo"), fields)
        self.program.profiles[name] = ActionProfile(name, number(size, "max_size", 0, _MOST_ENTRIES), chosen)

    def _table(self, item: Json) -> Table:
        program = self.program
        name = text(item, "name")
        key = tuple(self._key_field(entry) for entry in item["key"])
        if "action_ids" in item:
            actions = {program.action_by_id[i].name: i for i in item["action_ids"]}
        elif "actions" in item:  # JSON before 2.7, where no two actions had one name
            actions = {action: program.actions[action].ident for action in item["actions"]}
        else:
            raise UnsupportedProgramError(f"it names no actions: {_WANTED}")
        default = item.get("default_entry") or {}
        profile = item.get("action_profile", "")
        if item["type"] not in ("simple", "indirect", "indirect_ws"):
            raise UnsupportedProgramError(f"table {name} of type {item['type']!r}")
        if item["type"] != "simple" and not profile:
            profile = self._profile_of_table(item)
        if profile and profile not in program.profiles:
            raise MalformedProgramError(f"there is no action profile {profile!r}")
        entries = []
        for place, entry in listed(item, "entries"):
            with at(place):
                entries.append(self._const_entry(entry, key))
        next_nodes = dict(item["next_tables"])
        if ("__HIT__" in next_nodes) != ("__MISS__" in next_nodes):
            raise MalformedProgramError("of __HIT__ and __MISS__ in next_tables one is missing")
        meter = item.get("direct_meters") or ""
        if meter and program.meters[meter].result is None:
            raise MalformedProgramError(f"meter {meter} is no direct one")
        arguments = tuple(read_hex(value) for value in default.get("action_data", ()))
        if default.get("action_id") is not None:
            self._check_call(default["action_id"], arguments)
        return Table(
            name,
            item["match_type"],
            key,
            actions,
            profile,
            number(item.get("max_size", len(entries)), "max_size", 0, _MOST_ENTRIES),
            bool(item.get("with_counters", False)),
            bool(item.get("support_timeout", False)),
            meter,
            default.get("action_id"),
            arguments,
            bool(default.get("action_const", False) or default.get("action_entry_const", False)),
            tuple(entries),
            "entries" in item,
            next_nodes,
            next_nodes["__MISS__"] if "__MISS__" in next_nodes else item.get("base_default_next"),
        )

    def _profile_of_table(self, item: Json) -> str:
        """JSON before 2.7 declares an action profile in its table."""
        if "act_prof_name" not in item:
            raise UnsupportedProgramError(f"it does not name its action profile: {_WANTED}")
        name = text(item, "act_prof_name")
        self._profile(name, item.get("max_size", 0), item.get("selector"))
        return name

    def _check_call(self, ident: int, arguments: tuple[int, ...]) -> None:
        action = self.program.action_by_id[ident]
        if len(arguments) != len(action.params):
            raise MalformedProgramError(
                f"action {action.name} takes {len(action.params)} arguments, not {len(arguments)}"
            )

    def _const_entry(self, item: Json, key: tuple[KeyField, ...]) -> ConstEntry:
        entry = _const_entry(item)
        if len(entry.key) != len(key):
            raise MalformedProgramError(f"{len(entry.key)} fields for a key of {len(key)}")
        self._check_call(entry.action, entry.arguments)
        return entry

    def _key_field(self, item: Json) -> KeyField:
        kind, target = item["match_type"], item["target"]
        if kind not in ("exact", "lpm", "ternary", "range", "valid"):
            raise UnsupportedProgramError(f"match kind {kind!r}")
        ref = FieldRef(target, VALID) if isinstance(target, str) else FieldRef(*target)
        self.program.headers[ref.header]  # a KeyError where there is none
        mask = item.get("mask")
        return KeyField(
            text(item, "name") if item.get("name") else f"{ref.header}.{ref.field}",
            kind,
            ref,
            self.program.field_type(ref).width,
            None if mask is None else read_hex(mask),
        )


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
                raise UnsupportedProgramError(f"constant entry with match kind {kind!r}")
    action = item["action_entry"]
    return ConstEntry(
        tuple(key),
        action["action_id"],
        tuple(read_hex(value) for value in action["action_data"]),
        number(item.get("priority", 0), "priority", -_MOST_ENTRIES, _MOST_ENTRIES),
    )
