"""Tables while the program runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from switchml.p4runtime.entries import (
    ActionCall,
    GroupRef,
    Match,
    MatchKind,
    MemberRef,
    OneShot,
    TableAction,
    TableEntry,
)
from switchml.p4runtime.refusals import RuntimeRequestError
from switchml.switch_emulator.p4.action_profiles import ActionResolver, Call, Profile
from switchml.switch_emulator.p4.match import (
    Condition,
    ExactMatch,
    FieldMatch,
    LpmMatch,
    MatchStructure,
    OrderedMatch,
)
from switchml.switch_emulator.p4.program_model import KeyField
from switchml.switch_emulator.p4.program_model import Table as TableType
from switchml.switch_emulator.p4.stateful import Meter


class Entry:
    """An entry of a table.

    Attributes:
        call: what to run, None for an entry whose action a packet chooses from `choices`.
    """

    __slots__ = ("bytes", "call", "choices", "condition", "last_hit", "meter", "packets", "rank", "request")

    def __init__(self, request: TableEntry, condition: Condition, rank: tuple[int, ...]) -> None:
        self.request = request
        self.condition = condition
        self.rank = rank
        self.call: Call | None = None
        self.choices: Sequence[Call] = ()
        self.packets = self.bytes = 0
        self.meter: Meter | None = None
        self.last_hit = 0


class Table:
    """The generated source calls `find` with a key's fields, and `miss` when nothing matches."""

    def __init__(
        self,
        info: TableType,
        resolver: ActionResolver,
        profile: Profile | None,
        no_action: Callable[..., None],
        clock: Callable[[], int],
    ) -> None:
        self.info = info
        self.profile = profile
        self.entries: dict[tuple[Condition, int], Entry] = {}
        self._resolver = resolver
        self._clock = clock
        self._sequence = 0
        self._structure: MatchStructure[Entry] = _structure(info)
        self.find = self._structure.find
        self._nothing = Call("NoAction", no_action, ())
        self._by_field = {key.name: number for number, key in enumerate(info.key)}
        # Ternary and range tables need priorities.
        self.ordered = any(key.kind in ("ternary", "range") for key in info.key)
        self.miss = self._initial_default()
        if profile is not None:
            profile.allowed.update(info.actions)
            profile.used_by.append(self)
        self._insert_const_entries()

    # For the control plane

    def insert(self, request: TableEntry) -> None:
        """Add an entry.

        Raises:
            RuntimeRequestError: the table is constant or full, has this entry, or key or action do not fit.
        """
        self._check_mutable()
        condition, key = self._key(request.key, request.priority)
        if key in self.entries:
            raise RuntimeRequestError("ALREADY_EXISTS", f"{self.info.name} has this entry")
        if len(self.entries) >= self.info.max_size:
            raise RuntimeRequestError(
                "RESOURCE_EXHAUSTED", f"{self.info.name} is full: {self.info.max_size} entries"
            )
        entry = Entry(request, condition, self._rank(request.priority))
        self._bind(entry)
        entry.last_hit = self._clock()
        self._add(key, entry)

    def modify(self, request: TableEntry) -> None:
        """Give an entry another action.

        Raises:
            RuntimeRequestError: the table is constant, has no such entry, or the action does not fit.
        """
        self._check_mutable()
        entry = self.entry(request.key, request.priority)
        changed = Entry(request, entry.condition, entry.rank)
        self._bind(changed)
        entry.request, entry.call, entry.choices = request, changed.call, changed.choices

    def delete(self, key: Mapping[str, Match], priority: int) -> None:
        """Remove an entry.

        Raises:
            RuntimeRequestError: the table is constant, or has no such entry.
        """
        self._check_mutable()
        entry = self.entry(key, priority)
        self._structure.remove(entry.condition, entry.rank)
        del self.entries[entry.condition, priority if self.ordered else 0]

    def entry(self, key: Mapping[str, Match], priority: int) -> Entry:
        """The entry with this key.

        Raises:
            RuntimeRequestError: there is none.
        """
        _, number = self._key(key, priority)
        entry = self.entries.get(number)
        if entry is None:
            raise RuntimeRequestError("NOT_FOUND", f"{self.info.name} has no such entry")
        return entry

    def set_default(self, request: ActionCall | None) -> None:
        """Set the action of a miss; None = the program's own.

        Raises:
            RuntimeRequestError: the default action is constant, or does not fit.
        """
        if request is None:
            self.miss = self._initial_default()
            return
        call = self._resolver.call(self.info.actions, request, f"table {self.info.name}")
        if self.info.default_const and call.request != self._initial_default().request:
            raise RuntimeRequestError(
                "PERMISSION_DENIED", f"the default action of {self.info.name} is constant"
            )
        self.miss = call

    def uses(self, action: TableAction) -> bool:
        """Whether an entry has this action."""
        return any(entry.request.action == action for entry in self.entries.values())

    def refresh(self) -> None:
        """Members or groups have changed."""
        for entry in self.entries.values():
            self._bind(entry)

    # Inside

    def _initial_default(self) -> Call:
        if self.info.default_action is None:
            return self._nothing
        return self._resolver.of_program(self.info.default_action, self.info.default_arguments)

    def _add(self, key: tuple[Condition, int], entry: Entry) -> None:
        self.entries[key] = entry
        self._structure.add(entry.condition, entry.rank, entry)

    def _rank(self, priority: int) -> tuple[int, ...]:
        self._sequence += 1
        return -priority, self._sequence

    def _bind(self, entry: Entry) -> None:
        action = entry.request.action
        name = f"table {self.info.name}"
        match action:
            case ActionCall():
                if self.profile is not None:
                    raise RuntimeRequestError(
                        "INVALID_ARGUMENT", f"{name} takes members of {self.profile.info.name}"
                    )
                entry.call, entry.choices = self._resolver.call(self.info.actions, action, name), ()
                return
        if self.profile is None:
            raise RuntimeRequestError("INVALID_ARGUMENT", f"{name} has no action profile")
        match action:
            case MemberRef(member):
                entry.call, entry.choices = self.profile.member(member), ()
            case GroupRef(group):
                entry.choices = self.profile.choices(group)
                # An empty group does nothing (P4Runtime specification, section 9.2.2).
                entry.call = None if entry.choices else self._nothing
            case OneShot(actions):
                self.profile.need_selector()
                entry.choices = tuple(
                    call
                    for request, weight in actions
                    for call in [self._resolver.call(self.info.actions, request, name)] * weight
                )
                entry.call = None if entry.choices else self._nothing

    def _check_mutable(self) -> None:
        if self.info.has_const_entries:
            raise RuntimeRequestError("PERMISSION_DENIED", f"the entries of {self.info.name} are constant")

    def _key(self, key: Mapping[str, Match], priority: int) -> tuple[Condition, tuple[Condition, int]]:
        unknown = set(key) - set(self._by_field)
        if unknown:
            raise RuntimeRequestError(
                "INVALID_ARGUMENT", f"{self.info.name} has no key field {sorted(unknown)[0]}"
            )
        condition = tuple(_condition(field, key.get(field.name), self.info.name) for field in self.info.key)
        if self.ordered and priority <= 0:
            raise RuntimeRequestError(
                "INVALID_ARGUMENT", f"entries of {self.info.name} need a priority above 0"
            )
        if not self.ordered and priority != 0:
            raise RuntimeRequestError("INVALID_ARGUMENT", f"entries of {self.info.name} have no priority")
        return condition, (condition, priority)

    def _insert_const_entries(self) -> None:
        top = max((entry.priority for entry in self.info.entries), default=0) + 1
        for const in self.info.entries:
            key = {
                field.name: _const_match(field, value, extra)
                for field, (value, extra) in zip(self.info.key, const.key, strict=True)
            }
            call = self._resolver.of_program(const.action, const.arguments)
            # In the JSON the smallest number wins, in P4Runtime the largest.
            priority = top - const.priority if self.ordered else 0
            condition = tuple(_condition(f, key[f.name], self.info.name) for f in self.info.key)
            entry = Entry(TableEntry(key, call.request, priority), condition, self._rank(priority))
            entry.call = call
            self._add((condition, priority), entry)


def _structure(info: TableType) -> MatchStructure[Entry]:
    kinds = [key.kind for key in info.key]
    if "ternary" in kinds or "range" in kinds:
        return OrderedMatch()
    if "lpm" in kinds:
        return LpmMatch(kinds.index("lpm"))
    return ExactMatch()


def _const_match(field: KeyField, value: int, extra: int) -> Match:
    kind = MatchKind.EXACT if field.kind == "valid" else MatchKind(field.kind)
    mask = (1 << field.width) - 1
    if kind is MatchKind.TERNARY:
        return Match(kind, value & extra & mask, extra & mask)
    return Match(kind, value & mask, min(extra, mask) if kind is MatchKind.RANGE else extra)


def _condition(field: KeyField, match: Match | None, table: str) -> FieldMatch:
    """What a control plane asks for as what packets are compared with. A key's own mask applies to the value as it does to the
    packet's, as in BMv2: of a range to its beginning.
    """
    condition = _asked_for(field, match, table)
    if field.mask is None:
        return condition
    return replace(condition, value=condition.value & field.mask, low=condition.low & field.mask)


def _asked_for(field: KeyField, match: Match | None, table: str) -> FieldMatch:
    full = (1 << field.width) - 1
    exact = field.kind in ("exact", "valid")
    if match is None:
        if exact:
            raise RuntimeRequestError("INVALID_ARGUMENT", f"{table}: key field {field.name} is missing")
        return FieldMatch(0, -1, 0, full) if field.kind == "range" else FieldMatch(0, 0)
    if not 0 <= match.value <= full:
        raise RuntimeRequestError("INVALID_ARGUMENT", f"{table}: {match.value} does not fit {field.name}")
    allowed = {
        "exact": (MatchKind.EXACT,),
        "valid": (MatchKind.EXACT,),
        "lpm": (MatchKind.LPM,),
        "ternary": (MatchKind.TERNARY, MatchKind.OPTIONAL),
        "range": (MatchKind.RANGE,),
    }[field.kind]
    if match.kind not in allowed:
        raise RuntimeRequestError(
            "INVALID_ARGUMENT", f"{table}: {field.name} matches by {field.kind}, not {match.kind.value}"
        )
    match match.kind:
        case MatchKind.EXACT | MatchKind.OPTIONAL:
            return FieldMatch(match.value, full)
        case MatchKind.LPM:
            if not 0 <= match.extra <= field.width:
                raise RuntimeRequestError(
                    "INVALID_ARGUMENT",
                    f"{table}: prefix of {match.extra} bits on {field.name} of {field.width}",
                )
            mask = full ^ (full >> match.extra)
            return FieldMatch(match.value & mask, mask)
        case MatchKind.TERNARY:
            if not 0 <= match.extra <= full:
                raise RuntimeRequestError(
                    "INVALID_ARGUMENT", f"{table}: mask {match.extra} does not fit {field.name}"
                )
            return FieldMatch(match.value & match.extra, match.extra)
        case _:
            if not match.value <= match.extra <= full:
                raise RuntimeRequestError(
                    "INVALID_ARGUMENT", f"{table}: {match.value} to {match.extra} is no range of {field.name}"
                )
            return FieldMatch(0, -1, match.value, match.extra)
