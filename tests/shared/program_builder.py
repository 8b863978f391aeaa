"""Small programs in BMv2's JSON, made by hand: what one test needs and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from switchml.switch_emulator.p4 import P4Switch, load_program

Json = dict[str, Any]

_STANDARD = (
    ("ingress_port", 9),
    ("egress_spec", 9),
    ("egress_port", 9),
    ("instance_type", 32),
    ("packet_length", 32),
    ("enq_timestamp", 32),
    ("enq_qdepth", 19),
    ("deq_timedelta", 32),
    ("deq_qdepth", 19),
    ("ingress_global_timestamp", 48),
    ("egress_global_timestamp", 48),
    ("mcast_grp", 16),
    ("egress_rid", 16),
    ("checksum_error", 1),
    ("parser_error", 32),
    ("priority", 3),
)
_INTRINSIC = ("ingress_global_timestamp", "egress_global_timestamp", "mcast_grp", "egress_rid", "priority")
_QUEUEING = ("enq_timestamp", "enq_qdepth", "deq_timedelta", "deq_qdepth")


class ProgramBuilder:
    """One parser state after the other and one list of actions or tables a pipeline, unless a test says more."""

    def __init__(self) -> None:
        self.types: list[Json] = []
        self.headers: list[Json] = []
        self.stacks: list[Json] = []
        self.unions: list[Json] = []
        self.union_types: list[Json] = []
        self.union_stacks: list[Json] = []
        self.states: list[Json] = []
        self.order: list[str] = []
        self.actions: list[Json] = []
        self.tables: dict[str, list[Json]] = {"ingress": [], "egress": []}
        self.conditionals: dict[str, list[Json]] = {"ingress": [], "egress": []}
        self.first: dict[str, str | None] = {}
        self.profiles: list[Json] = []
        self.registers: list[Json] = []
        self.counters: list[Json] = []
        self.meters: list[Json] = []
        self.calculations: list[Json] = []
        self.checksums: list[Json] = []
        self.learn_lists: list[Json] = []
        self.field_lists: list[Json] = []
        self.value_sets: list[Json] = []
        self.externs: list[Json] = []
        self.header("standard_metadata", _STANDARD, metadata=True)

    # Values

    @staticmethod
    def field(header: str, name: str) -> Json:
        return {"type": "field", "value": [header, name]}

    @staticmethod
    def const(value: int) -> Json:
        return {"type": "hexstr", "value": f"-{-value:#x}" if value < 0 else f"{value:#x}"}

    @staticmethod
    def param(index: int) -> Json:
        return {"type": "runtime_data", "value": index}

    @staticmethod
    def of(kind: str, value: Any) -> Json:
        return {"type": kind, "value": value}

    @staticmethod
    def op(op: str, left: Json | None, right: Json, cond: Json | None = None) -> Json:
        value: Json = {"op": op, "left": left, "right": right}
        if cond is not None:
            value["cond"] = cond
        return {"type": "expression", "value": value}

    @staticmethod
    def call(op: str, *args: Json) -> Json:
        wrapped = [{"type": "expression", "value": a} if a["type"] == "expression" else a for a in args]
        return {"op": op, "parameters": wrapped}

    def assign(self, header: str, name: str, value: Json) -> Json:
        return self.call("assign", self.field(header, name), value)

    def std(self, name: str) -> Json:
        return self.field("standard_metadata", name)

    # Declarations

    def header(
        self, name: str, fields: Sequence[tuple[Any, ...]], *, metadata: bool = False, kind: str = ""
    ) -> int:
        """kind: the type's name, made from `fields` when it is new."""
        kind = kind or f"{name}_t"
        if all(t["name"] != kind for t in self.types):
            maximum = sum(width for _, width, *_ in fields if width != "*") // 8
            item: Json = {"name": kind, "id": len(self.types), "fields": [list(f) for f in fields]}
            if any(width == "*" for _, width, *_ in fields):
                item["max_length"] = maximum + 40
            self.types.append(item)
        self.headers.append(
            {"name": name, "id": len(self.headers), "header_type": kind, "metadata": metadata}
        )
        return len(self.headers) - 1

    def stack(self, name: str, size: int, fields: Sequence[tuple[Any, ...]]) -> None:
        ids = [self.header(f"{name}[{i}]", fields, kind=f"{name}_t") for i in range(size)]
        self.stacks.append(
            {"name": name, "id": len(self.stacks), "header_type": f"{name}_t", "header_ids": ids}
        )

    def state(self, name: str, ops: Sequence[Json], key: Sequence[Json] = (), **transitions: Any) -> None:
        """transitions: `default` (a state or None), `cases`: (value, mask, next state) or (value set's name, None, next)."""
        cases = [
            {
                "type": "hexstr" if value.startswith("0x") else "parse_vset",
                "value": value,
                "mask": mask,
                "next_state": following,
            }
            for value, mask, following in transitions.get("cases", ())
        ]
        default = {"type": "default", "value": None, "mask": None, "next_state": transitions.get("default")}
        self.states.append(
            {
                "name": name,
                "id": len(self.states),
                "parser_ops": list(ops),
                "transition_key": list(key),
                "transitions": [*cases, default],
            }
        )

    def extract(self, header: str, kind: str = "regular") -> Json:
        return {"op": "extract", "parameters": [{"type": kind, "value": header}]}

    def action(self, name: str, body: Sequence[Json], params: Sequence[tuple[str, int]] = ()) -> int:
        runtime = [{"name": n, "bitwidth": w} for n, w in params]
        ident = len(self.actions)
        self.actions.append({"name": name, "id": ident, "runtime_data": runtime, "primitives": list(body)})
        return ident

    def table(
        self,
        name: str,
        actions: Sequence[int],
        *,
        key: Sequence[tuple[str, str, str]] = (),
        default: int | None = None,
        arguments: Sequence[int] = (),
        pipeline: str = "ingress",
        following: Mapping[str, str | None] | None = None,
        entries: Sequence[Json] | None = None,
        const: bool = False,
        size: int = 64,
        **more: Any,
    ) -> None:
        """key: (header, field, match kind). following: by action name or __HIT__/__MISS__; None = the next table."""
        kinds = [kind for *_, kind in key]
        match_kind = next((k for k in ("range", "ternary", "lpm") if k in kinds), "exact")
        item: Json = {
            "name": name,
            "id": len(self.tables["ingress"]) + len(self.tables["egress"]),
            "key": [
                {"match_type": kind, "name": f"hdr.{h}.{f}", "target": [h, f], "mask": None}
                for h, f, kind in key
            ],
            "match_type": match_kind,
            "type": "simple",
            "max_size": size,
            "with_counters": False,
            "support_timeout": False,
            "direct_meters": None,
            "action_ids": list(actions),
            "actions": [self.actions[i]["name"] for i in actions],
            "next_tables": following,
            "base_default_next": None,
        }
        if default is not None:
            item["default_entry"] = {
                "action_id": default,
                "action_const": const,
                "action_data": [hex(a) for a in arguments],
                "action_entry_const": const,
            }
        if entries is not None:
            item["entries"] = list(entries)
        item |= more
        self.tables[pipeline].append(item)

    def run(self, body: Sequence[Json], pipeline: str = "ingress") -> None:
        """Statements directly in a control's apply, as p4c writes them: a table that can't be hit."""
        number = len(self.actions)
        ident = self.action(f"act_{number}", body)
        self.table(f"tbl_act_{number}", [ident], default=ident, const=True, pipeline=pipeline)

    # Result

    def build(self) -> Json:
        pipelines = []
        for number, name in enumerate(("ingress", "egress")):
            tables = self.tables[name]
            for table, following in zip(tables, [*tables[1:], None], strict=False):
                if table["next_tables"] is None:
                    successor = None if following is None else following["name"]
                    table["next_tables"] = dict.fromkeys(table["actions"], successor)
                    table["base_default_next"] = successor
            pipelines.append(
                {
                    "name": name,
                    "id": number,
                    "init_table": self.first.get(name, tables[0]["name"] if tables else None),
                    "tables": tables,
                    "conditionals": self.conditionals[name],
                    "action_profiles": self.profiles if name == "ingress" else [],
                }
            )
        return {
            "__meta__": {"version": [2, 23]},
            "header_types": self.types,
            "headers": self.headers,
            "header_stacks": self.stacks,
            "header_union_types": self.union_types,
            "header_unions": self.unions,
            "header_union_stacks": self.union_stacks,
            "field_lists": self.field_lists,
            "errors": [["NoError", 0], ["PacketTooShort", 1], ["NoMatch", 2], ["StackOutOfBounds", 3]],
            "enums": [],
            "parsers": [
                {
                    "name": "parser",
                    "id": 0,
                    "init_state": self.states[0]["name"] if self.states else None,
                    "parse_states": self.states,
                }
            ],
            "parse_vsets": self.value_sets,
            "deparsers": [{"name": "deparser", "id": 0, "order": self.order}],
            "meter_arrays": self.meters,
            "counter_arrays": self.counters,
            "register_arrays": self.registers,
            "calculations": self.calculations,
            "learn_lists": self.learn_lists,
            "actions": self.actions,
            "pipelines": pipelines,
            "checksums": self.checksums,
            "extern_instances": self.externs,
            "field_aliases": [
                *([f"intrinsic_metadata.{n}", ["standard_metadata", n]] for n in _INTRINSIC),
                *([f"queueing_metadata.{n}", ["standard_metadata", n]] for n in _QUEUEING),
            ],
        }

    def switch(self, **options: Any) -> P4Switch:
        return P4Switch(load_program(self.build()), **options)

    def simple(self, *fields: tuple[Any, ...]) -> None:
        """One header `h` of these fields, extracted and emitted."""
        self.header("h", fields)
        self.state("start", [self.extract("h")])
        self.order.append("h")
