"""Reads the pipelines of a BMv2 JSON: tables, conditions and action profiles."""

from __future__ import annotations

from switchml.errors import UnsupportedProgramError
from switchml.switch_emulator.p4.expressions import (
    FieldRef,
    need_expression,
    read_hex,
)
from switchml.switch_emulator.p4.json_items import Json, read_field, read_source
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
        for profile in item.get("action_profiles", ()):
            selector = profile.get("selector")
            program.profiles[profile["name"]] = ActionProfile(
                profile["name"],
                int(profile.get("max_size", 0)),
                None
                if selector is None
                else (selector["algo"], tuple(read_field(entry) for entry in selector["input"])),
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
                read_source(entry),
            )
        for entry in item.get("action_calls", ()):
            nodes[entry["name"]] = ActionCallNode(entry["name"], entry["action_id"], entry.get("next_node"))
        return PipelineGraph(item["name"], item.get("init_table"), nodes)

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
